"""The command `quantsam`: a group that imports a command only when it is called."""

from __future__ import annotations

import codecs
import errno
import importlib
import io
import os
import re
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from quantsam.cli.words import in_options
from quantsam.errors import QuantsamError, nearest
from quantsam.files import expanded, shown
from quantsam.memory import keep_freed_memory
from quantsam.notices import shown_by
from quantsam.versions import missing, outdated

COMMANDS = {
    "demo": "Quantize, score and repair shipped models on toy scenes: everything in five minutes.",
    "evaluate": "Score a model under one or more schemes on a dataset.",
    "agree": "Score schemes in the simulator and on real engines, and compare them mask by mask.",
    "export": "Export a model for an engine: a bundle that runs without PyTorch.",
    "verify": "Check a bundle on this machine: files, integers, masks, kernels, speed.",
    "sensitivity": "Find the layers that hurt: quantize one at a time, exactly or by estimate.",
    "repair": "Find the repairs that bring INT8 back to the float model's masks, and save the plan.",
    "search": "Find a format for each layer: most accurate within a budget, or smallest within a loss.",
    "sweep": "Do sets of runs from a file; skip finished runs and resume an interrupted sweep.",
    "app": "Open a local page to try schemes on your own images.",
    "distributions": "Show distributions of weights and activations: what is clipped, which channels stand out.",
    "activations": "Compare float and quantized activations of one image, site by site.",
    "report": "Write all results as one HTML page for a browser: tables, charts, masks.",
    "segment": "Segment your own image: by boxes, by points, or everything in it.",
    "calibrate": "Calibrate a scheme on images and save the plan.",
    "latency": "Time the encoder and the decoder, by engine and scheme.",
    "audit": "Find tensors that would overflow in float16, and integer sums that would saturate.",
    "layers": "List a model's quantizable layers, with formats and sizes under a scheme.",
    "schemes": "List the shipped quantization schemes, or show one.",
    "results": "List, filter, compare and export stored results.",
    "data": "Make data: procedural scenes as a COCO folder.",
    "cache": "Show or remove cached plans.",
}


_CANNOT_WRITE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


class _Interrupted(click.ClickException):
    """Ctrl-C, caught before click, which would print an empty line first."""

    exit_code = 130


class _LazyGroup(click.Group):
    """Lists every command without importing any."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise _Interrupted(
                "interrupted; nothing half-written was left behind, and the same command goes on where it was"
            ) from None

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"quantsam.cli.{cmd_name}").command
        if isinstance(ctx.obj, dict):
            ctx.obj["command"] = command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS:
            raise click.UsageError(f"there is no command {args[0]!r}: {nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="quantsam")
@click.option("--debug", is_flag=True, help="Show the traceback of an error; may also stand after the command.")
def cli(debug: bool) -> None:
    """INT8 quantization of EfficientViT-SAM that can be trusted: calibrate, simulate, score."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code. Each error of the user becomes one line."""
    for stream in (sys.stdout, sys.stderr):  # a file's name may hold bytes, not text, or letters a console lacks
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="quantsam.shown")
    _need_no_temporary_folder()
    known: dict[str, Any] = {}
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given  # at any position
    try:
        given = [_at_home(argument) for argument in given if argument != "--debug"]
        with shown_by(lambda text: click.echo(f"quantsam: note: {text}", err=True)):
            # Numba warns in four lines if /dev/shm is not writable; nothing here forks while kernels start.
            warnings.filterwarnings("ignore", "Could not obtain multiprocessing lock")
            known |= {"debug": debug, "arguments": given}
            code = cli.main(args=given, prog_name="quantsam", standalone_mode=False, obj=known)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except (click.ClickException, QuantsamError) as error:
        command = known.get("command")
        message = error.format_message() if isinstance(error, click.ClickException) else in_options(str(error), command)
        return _complain(message, error.exit_code, debug)
    except OSError as error:
        if error.filename is not None and error.errno in _CANNOT_WRITE and _is_temporary(error.filename):
            where = f"cannot write the temporary file {os.fsdecode(error.filename)}: {error.strerror}"
            return _complain(f"{where}: set TMPDIR to a folder that can be written", 1, debug)
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        # Standard output is full: Python must not try to write the rest of its buffer on exit.
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
        return _complain(f"cannot print: {error.strerror}", 1, debug)
    except Exception as error:
        line = missing(error) if isinstance(error, ModuleNotFoundError) else None
        if line is not None:
            return _complain(line, 2, debug)
        problems = outdated()
        if not problems:
            raise  # a defect of quantsam
        what = f"{type(error).__name__}: {error}".splitlines()[0]
        return _complain(f"{what}; it may be that a package is too old: {problems[0]}; --debug shows more", 1, debug)
    return code if isinstance(code, int) else 0


def _shown(error: UnicodeError) -> tuple[str, int]:
    r"""Write bytes of a name that are not text as `\xff`, and letters that the encoding lacks as `\u2265`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    letters = shown(error.object[error.start : error.end])
    return letters.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error("quantsam.shown", _shown)


def _need_no_temporary_folder() -> None:
    """Without a temporary folder, fail where one is used, not where a package asks for its name."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError:
        tempfile.tempdir = "/tmp"  # PyTorch asks for it on import


def _is_temporary(name: str | bytes) -> bool:
    return Path(os.fsdecode(name)).absolute().is_relative_to(tempfile.gettempdir())


def _at_home(argument: str) -> str:
    """Replace a leading `~` also where no shell does: after `--option=`, in quotes, from another program."""
    option, home, path = re.fullmatch(r"(--[a-z-]+=)?(~)?(.*)", argument, re.DOTALL).groups()  # type: ignore[union-attr]
    return (option or "") + str(expanded(home + path)) if home else argument


def _complain(message: str, exit_code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    click.echo(f"quantsam: {' '.join(message.split())}", err=True)
    return exit_code


def run() -> None:
    """Entry point of the installed command."""
    keep_freed_memory()
    sys.exit(main())
