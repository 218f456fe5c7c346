"""Make one value of several options of a command, and keep an option's old spelling for one version."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import click

from quantsam.notices import notice


def option_group(
    parameter: str, make: Callable[[Mapping[str, Any]], Any], *options: Callable[[Any], Any]
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return a decorator that adds options to a command. The command gets one value made from them.

    Args:
        parameter: Name of the command's parameter for the value.
        make: Makes the value from the values of all options of the command, by name. So several groups may use `seed`.
        options: Decorators that `click.option` returns, in the order in which help lists them.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def grouped(*args: Any, **given: Any) -> Any:
            given[parameter] = make(click.get_current_context().params)
            return function(*args, **{name: value for name, value in given.items() if name not in names})

        for option in reversed(options):
            option(grouped)
        added = grouped.__click_params__[-len(options) :]  # type: ignore[attr-defined]
        names = {option.name for option in added} - {parameter}
        return grouped

    return decorate


class RenamedOption(click.Option):
    """An option that also takes an old spelling. Help does not show it, and a notice warns about it."""

    def __init__(self, *args: Any, old: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.old = old

    def add_to_parser(self, parser: Any, ctx: click.Context) -> None:
        """Register both spellings with the parser."""
        super().add_to_parser(parser, ctx)
        hidden = click.Option([self.old, self._old_name], expose_value=False)
        hidden.add_to_parser(parser, ctx)

    def consume_value(self, ctx: click.Context, opts: Mapping[str, Any]) -> Any:
        """Take the value, also from the old spelling.

        Raises:
            click.UsageError: Both were given.
        """
        value, source = super().consume_value(ctx, opts)
        old = opts.get(self._old_name)
        if old is None:
            return value, source
        if source is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{self.old} and {self.opts[0]} are one option: leave {self.old} out")
        notice(f"{self.old} is now called {self.opts[0]}: the old name goes with the next version")
        return old, click.core.ParameterSource.COMMANDLINE

    @property
    def _old_name(self) -> str:
        return f"old_{self.name}"
