"""The command `quantsam`: a group whose commands are imported when they are called."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence

import click

from quantsam.errors import QuantsamError

COMMANDS = {
    "demo": "Quantize and score the shipped model on toy scenes: the whole job in a minute.",
    "evaluate": "Score a model under one or more schemes on a dataset.",
    "calibrate": "Calibrate a plan and save it.",
    "layers": "List a model's quantizable layers, with formats and sizes under a scheme.",
    "schemes": "List the quantization schemes that come along, or show one.",
    "results": "List, filter, compare and export the results so far.",
    "data": "Make data: scenes as a COCO folder.",
}


class _LazyGroup(click.Group):
    """Lists every command without importing any."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"quantsam.cli.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            from quantsam.errors import nearest

            raise click.UsageError(f"there is no command {args[0]!r}: {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="quantsam")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """INT8 quantization of EfficientViT-SAM that can be trusted: calibrate, simulate, score."""
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; errors of the user become one line each."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    try:
        code = cli.main(args=arguments, prog_name="quantsam", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        click.echo(f"quantsam: {error.format_message()}", err=True)
        return error.exit_code
    except QuantsamError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"quantsam: {' '.join(str(error).split())}", err=True)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("quantsam: interrupted; nothing half-written was left behind", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 141
    return code if isinstance(code, int) else 0


def run() -> None:
    """Entry point of the installed command."""
    sys.exit(main())
