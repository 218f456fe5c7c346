"""What the documentation tells to type works: schemes, sweeps, options, Python; samples are what commands print."""

import importlib
import re
import shlex
import subprocess
import sys
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
DOCS = REPOSITORY / "docs"
sys.path.insert(0, str(DOCS))

import command_samples  # noqa: E402

PAGES = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md"), *(REPOSITORY / "recipes").rglob("*.md")])
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
        if placement == "thesis" or not re.search(r"\bact = ", text):  # engines have no such tensor
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


def is_current(page):
    text = page.read_text("utf-8")
    return command_samples.words(command_samples.filled(text)) == command_samples.words(text)


@pytest.mark.parametrize("name", ["cache", "data", "index", "layers", "schemes"])
def test_samples_of_output_are_current(name):
    assert is_current(DOCS / f"reference/commands/{name}.md"), "run `make docs`"


@pytest.mark.slow
@pytest.mark.parametrize("page", command_samples.pages(), ids=lambda page: page.stem)
def test_all_samples_of_output_are_current(page):
    assert is_current(page), "run `make docs`"


def test_an_outdated_sample_is_found():
    words = command_samples.words
    assert words("nano  | 86.01 | 3f2a9c") == words("nano | 7 |  0b1d22")
    assert words("nano | 86.01") != words("nano-hard | 86.01")


def test_every_command_has_a_page():
    assert {page.stem for page in (DOCS / "reference/commands").glob("*.md")} == {"index", *COMMANDS}


def test_every_public_name_is_in_the_reference():
    import quantsam

    listed = re.findall(r"^::: quantsam\.(\w+)$", (DOCS / "reference/api.md").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(quantsam.__all__)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("page", "text"), [(page, text) for page, kind, text in BLOCKS if kind == "python" and "photo.jpg" not in text]
)
def test_python_runs(page, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True)
    assert done.returncode == 0, f"{page}\n{text}\n{done.stderr}"


@pytest.mark.slow
@pytest.mark.parametrize("notebook", sorted(DOCS.rglob("*.ipynb")), ids=lambda path: path.stem)
def test_notebooks_run(notebook, tmp_path):
    command = [sys.executable, "-m", "jupyter", "execute", str(notebook), "--output", str(tmp_path / "done.ipynb")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_there_is_something_to_look_at():
    assert len(LINES) > 50
    assert len(TOML) >= 2
