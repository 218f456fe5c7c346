"""What the documentation site adds to the files in docs/: pages from elsewhere, and the options of all commands.

MkDocs calls these functions by their names (`hooks` in mkdocs.yml).
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
from pathlib import Path

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from quantsam.cli.main import COMMANDS as NAMES

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "changelog.md": "CHANGELOG.md",
    "contributing.md": "CONTRIBUTING.md",
    "nano-training.md": "recipes/nano/README.md",
}
_PAGE_OF = {source: page for page, source in ELSEWHERE.items()}
COMMANDS = "reference/commands"
SHIM = "https://unpkg.com/iframe-worker/shim"  # Material's plug-in `offline` loads it from there


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """List every command in the navigation, in the order of `quantsam --help`."""
    pages = [{f"quantsam {name}": f"{COMMANDS}/{name}.md"} for name in NAMES]
    assert config.nav is not None
    reference = next(section["Reference"] for section in config.nav if "Reference" in section)
    commands = next(entry for entry in reference if "Commands" in entry)
    commands["Commands"] = [f"{COMMANDS}/index.md", *pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that live elsewhere."""
    for name, source in ELSEWHERE.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, name, content=relinked(text, Path(source).parent, Path())))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point links that leave docs/ at the page that stands for their target."""
    if page.file.src_uri in ELSEWHERE:
        return markdown
    path = Path(page.file.src_uri)
    if path.parent == Path(COMMANDS) and path.stem in NAMES:
        title, _, examples = markdown.partition("\n")
        markdown = f"{title}\n\n{usage(path.stem)}\n{examples}"
    return relinked(markdown, Path("docs") / path.parent, path.parent)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Load nothing from elsewhere."""
    return _without_shim(output, Path(page.file.dest_uri).parent)


def on_post_template(output_content: str, template_name: str, config: MkDocsConfig) -> str:
    """Load nothing from elsewhere."""
    return _without_shim(output_content, Path())


def _without_shim(html: str, folder: Path) -> str:
    return html.replace(SHIM, os.path.relpath("assets/iframe-worker.js", folder))


def usage(name: str) -> str:
    """Return what `quantsam NAME --help` says, as Markdown."""
    command = importlib.import_module(f"quantsam.cli.{name}").command
    return _usage(command, click.Context(command, info_name=f"quantsam {name}", help_option_names=["-h", "--help"]))


def _usage(command: click.Command, context: click.Context) -> str:
    line = " ".join([context.command_path, *command.collect_usage_pieces(context)])
    parts = [_prose(command.help or ""), f"```\n{line}\n```"]
    options = [parameter for parameter in command.get_params(context) if isinstance(parameter, click.Option)]
    records = [record for option in options if (record := option.get_help_record(context))]
    parts.append("\n".join(["| option | what it does |", "| --- | --- |", *(_row(*record) for record in records)]))
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            below = click.Context(child, parent=context, info_name=name)
            parts.append(f"## {below.command_path}\n\n{_usage(child, below)}")
    return "\n\n".join(parts)


def _prose(text: str) -> str:
    r"""Return a help text as Markdown: a paragraph after `\b` is set as it stands."""
    return "\n\n".join(
        "```\n" + part.removeprefix("\b\n") + "\n```" if part.startswith("\b") else part.replace("<", "&lt;")
        for part in inspect.cleandoc(text).split("\n\n")
    )


def _row(names: str, what: str) -> str:
    cells = (f"`{names}`", what.replace("<", "&lt;").replace("*", r"\*"))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def relinked(text: str, written_in: Path, shown_in: Path) -> str:
    """Return a page with the links to files of the repository changed to links within the site.

    Args:
        text: Markdown.
        written_in: The folder that its links start from, relative to the repository.
        shown_in: The folder of the page in the site, relative to docs/.
    """

    def relink(match: re.Match[str]) -> str:
        target, anchor = match[1], match[2] or ""
        path = os.path.normpath(written_in / target)
        if path in _PAGE_OF:
            page = _PAGE_OF[path]
        elif path.startswith("docs/"):
            page = path.removeprefix("docs/")
        else:
            return match[0]  # the strict build complains
        return f"]({os.path.relpath(page, shown_in)}{anchor})"

    return re.sub(r"\]\(((?!\w+:)[^)#\s]+)(#[^)\s]*)?\)", relink, text)
