"""Translate errors of the library for the command line: name options instead of Python parameters."""

from __future__ import annotations

import re

import click

_PHRASES = (
    (r"open it with \w+Dataset, or with open_dataset\(FOLDER, annotations=FILE\)", "name it with --annotations"),
    (r"a list of files, or quantsam\.open_images\(\.\.\.\)", "a folder with --calibration"),
)
_ELSEWHERE = {"iou_threshold": "--min-iou", "stability_threshold": "--min-stability"}


def in_options(message: str, command: click.Command | None) -> str:
    """Return a message with names of parameters replaced by those of a command's options.

    Only names with an underscore are replaced, because other names are also English words.

    >>> option = click.Option(["--max-drop"])
    >>> in_options("max_drop must be at least 0", click.Command("search", params=[option]))
    '--max-drop must be at least 0'
    """
    for pattern, words in _PHRASES:
        message = re.sub(pattern, words, message)
    known = dict(_ELSEWHERE)
    for parameter in command.params if command is not None else ():
        if isinstance(parameter, click.Option):
            option = max(parameter.opts, key=len)
            known |= {name: option for name in (parameter.name, option[2:].replace("-", "_")) if name and "_" in name}
    pattern = r"(?<![\w/.-])(" + "|".join(map(re.escape, known)) + r")(?![\w/.])"
    return re.sub(pattern, lambda found: known[found[1]], message)
