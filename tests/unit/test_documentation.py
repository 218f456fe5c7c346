"""What the documentation tells to type works: schemes, sweeps, options, Python."""

import importlib
import re
import shlex
import tomllib
from pathlib import Path

import click
import pytest
import torch

from quantsam.cli.main import COMMANDS
from quantsam.models.encoder import ImageEncoder
from quantsam.models.variants import get_variant
from quantsam.plans.make import resolve_sites
from quantsam.schemes.load import parse_scheme
from quantsam.sweeps.sweep import read_sweep

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = sorted([REPOSITORY / "README.md", *(REPOSITORY / "docs").glob("*.md"), *(REPOSITORY / "recipes").rglob("*.md")])
BLOCKS = [
    (page.name, kind, text)
    for page in PAGES
    for kind, text in re.findall(r"^```(\w*)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
]
TOML = [text for _, kind, text in BLOCKS if kind == "toml"]
LINES = [line for _, kind, text in BLOCKS if not kind for line in text.splitlines() if line.startswith("quantsam ")]


@pytest.mark.parametrize("text", [text for text in TOML if "[[rules]]" in text])
@pytest.mark.parametrize("model", ["l0", "nano"])
def test_schemes_fit_the_models(text, model):
    with torch.device("meta"):
        encoder = ImageEncoder(get_variant(model))
    scheme = parse_scheme(text, "documented")
    for placement in ("thesis", "onnxruntime"):
        if placement == "thesis" or "act" not in text:  # engines fold it away
            assert resolve_sites(encoder, scheme, placement)
    named = {name for rule in tomllib.loads(text)["rules"] for name in rule.get("select", {}).get("model", ())}
    assert named <= {"l0"}  # all rules were looked at


@pytest.mark.parametrize("text", [text for text in TOML if "[[runs]]" in text])
def test_sweeps_can_be_read(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("weights/l0.pt", "weights/l1.pt", "found/mine.toml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "s.toml").write_text(text)
    assert len(read_sweep("s.toml").points) > 1


@pytest.mark.parametrize("line", LINES)
def test_commands_and_their_options_exist(line):
    name, *words = shlex.split(line, comments=True)[1:]
    assert name in COMMANDS
    command = importlib.import_module(f"quantsam.cli.{name}").command
    # click keeps a command's help option as its first context had it
    with click.Context(command, help_option_names=["-h", "--help"]) as ctx:
        if isinstance(command, click.Group):
            command, words = command.commands[words[0]], words[1:]
        given, _, _ = command.make_parser(ctx).parse_args(list(words))  # an unknown option raises
    for parameter in command.params:
        if isinstance(parameter.type, click.Choice) and parameter.name in given:
            assert given[parameter.name] in parameter.type.choices


@pytest.mark.parametrize("text", [text for _, kind, text in BLOCKS if kind == "python"])
def test_python_names_what_there_is(text):
    import quantsam

    compile(text, "documentation", "exec")
    for name in re.findall(r"\bqs\.(\w+)", text):
        assert hasattr(quantsam, name), name


def test_there_is_something_to_look_at():
    assert len(LINES) > 50
    assert len(TOML) >= 2
