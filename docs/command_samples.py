"""Fill the samples of output in docs/: each stands between `<!-- sample COMMAND -->` and `<!-- end sample -->`.

    python docs/command_samples.py [PAGE ...]

The commands of a page run in their order, in an empty folder that is also their home, so each sees what those before
it wrote. `<!-- run COMMAND -->` runs without being shown. In a command, `{1}` stands for the first result's id.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

DOCS = Path(__file__).parent
QUANTSAM = [sys.executable, "-c", "from quantsam.cli.main import run; run()"]
MARK = re.compile(r"<!-- run (?P<hidden>.*?) -->|<!-- sample (?P<shown>.*?) -->\n.*?<!-- end sample -->", re.DOTALL)


class _Shell:
    """Runs commands in a home of their own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("QUANTSAM_", "XDG_"))}
        self._environment = kept | {"HOME": str(folder), "COLUMNS": "100"}

    def run(self, command: str) -> str:
        """Return the command as it was given, and what it printed.

        Raises:
            RuntimeError: It failed.
        """
        command = re.sub(r"\{(\d+)\}", lambda number: self._result(int(number[1])), command)
        return f"$ {command}\n{self._printed(shlex.split(command)[1:])}"

    def _result(self, number: int) -> str:
        listed = json.loads(self._printed(["results", "--json"]))
        return str(listed[number - 1]["id"])[:6]

    def _printed(self, arguments: list[str]) -> str:
        command = [*QUANTSAM, *arguments]
        done = subprocess.run(command, cwd=self._folder, env=self._environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"quantsam {' '.join(arguments)}: exit code {done.returncode}\n{done.stderr}")
        lines = [line.rstrip() for line in done.stdout.replace(str(self._folder), "~").splitlines()]
        return "\n".join(lines).strip("\n")


def filled(text: str) -> str:
    """Return a page with all of its samples renewed."""
    with tempfile.TemporaryDirectory() as folder:
        shell = _Shell(Path(folder))

        def fill(mark: re.Match[str]) -> str:
            if mark["hidden"]:
                shell.run(mark["hidden"])
                return mark[0]
            return f"<!-- sample {mark['shown']} -->\n```console\n{shell.run(mark['shown'])}\n```\n<!-- end sample -->"

        return MARK.sub(fill, text)


def words(text: str) -> str:
    """Return a page without what differs between machines: figures, ids, widths of tables, lines on processors."""
    text = re.sub(r"^.*\b(?:avx|avx2|avx512|vnni|avx512_vnni|amx)\b.*\n", "", text, flags=re.MULTILINE)
    figures = re.sub(r"\b(?=[0-9a-f]*\d)[0-9a-f]{6,}\b|[-+±]?\d+(?:[.,:]\d+)*(?:e[-+]?\d+)?", "#", text)
    return re.sub(r"[ ─━-]+", " ", re.sub(r"(?:# )+", "# ", figures))


def pages() -> list[Path]:
    """Return the pages that hold samples."""
    return [page for page in sorted(DOCS.rglob("*.md")) if MARK.search(page.read_text("utf-8"))]


def main() -> None:
    """Fill pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="*", type=Path, help="[all that hold samples]")
    args = parser.parse_args()
    for page in args.pages or pages():
        text = page.read_text("utf-8")
        renewed = filled(text)
        if renewed != text:
            page.write_text(renewed, "utf-8")
            print(f"filled {page}")


if __name__ == "__main__":
    main()
