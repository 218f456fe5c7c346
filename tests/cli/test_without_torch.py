"""What works where only the runtime is installed: bundles, results and reports; the rest says what it needs."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import quantsam as qs
from quantsam.versions import QUANTIZE

REPOSITORY = Path(__file__).resolve().parents[2]
BLOCKED = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {QUANTIZE!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
from quantsam.cli.main import main

sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """A bundle of nano in INT8."""
    pytest.importorskip("onnxruntime")
    model = qs.load_model("nano")
    plan = qs.calibrate(model, qs.make_plan(model, "int8", "onnxruntime"), qs.open_images("scenes:2:1"))
    folder = tmp_path_factory.mktemp("bundle") / "nano"
    qs.export_bundle(model, plan, folder)
    return folder


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "p.png"
    Image.fromarray(qs.open_dataset("scenes:1:3").image(1)).save(path)
    return path


def without_torch(*arguments):
    """Run a command in a process that can import nothing of the extra."""
    line = [sys.executable, "-c", BLOCKED, *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_a_bundle_segments(bundle, picture, tmp_path):
    for prompt in (("--box", "10,10,100,100"), ("--everything",)):
        ran = without_torch("segment", picture, "--bundle", bundle, *prompt, "--out", tmp_path / "m.png", "--json")
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)
        with Image.open(tmp_path / "m.png") as drawn:
            assert np.asarray(drawn).any()
    ran = without_torch("verify", bundle, "--rounds", "1", "--json")
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert found["integer"] == found["convolutions"] > 0


def test_results_and_reports_are_read(run, tmp_path):
    store = tmp_path / "r.sqlite"
    run("evaluate", "--data", "scenes:1", "--store", store)
    (record,) = run("results", "--store", store, "--json").json
    for arguments in (("results",), ("results", record["id"]), ("results", record["id"], "--by", "category")):
        ran = without_torch(*arguments, "--store", store)
        assert ran.returncode == 0, ran.stderr
        assert "nano" in ran.stdout
    ran = without_torch("report", "--store", store, "--out", tmp_path / "r.html")
    assert ran.returncode == 0, ran.stderr
    assert "nano" in (tmp_path / "r.html").read_text("utf-8")


@pytest.mark.parametrize("line", ["evaluate --data scenes:1", "layers nano", "sensitivity nano", "schemes", "app"])
def test_what_quantizes_says_what_it_needs(line):
    ran = without_torch(*line.split())
    assert (ran.returncode, ran.stdout) == (2, "")
    expected = "quantsam: this needs the package torch, which is not installed: pip install 'quantsam[quantize]'\n"
    assert ran.stderr == expected


def test_a_public_name_says_what_it_needs():
    script = BLOCKED.partition("from quantsam.cli")[0] + "import quantsam\nquantsam.load_model"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    last = "ImportError: quantsam.load_model: this needs the package torch, which is not installed: pip install "
    assert last + "'quantsam[quantize]'" in ran.stderr


@pytest.mark.slow
def test_an_environment_without_torch(bundle, picture, tmp_path):
    """Installs the runtime and an engine, nothing else, and segments an image."""
    venv.create(tmp_path / "clean", with_pip=True)
    python = tmp_path / "clean" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--constraint", REPOSITORY / "constraints.txt", f"{REPOSITORY}[onnxruntime]"]
    subprocess.run(pip, check=True, capture_output=True)
    for package in QUANTIZE:
        ran = subprocess.run([python, "-c", f"import {package}"], capture_output=True, text=True, check=False)
        assert f"No module named '{package}'" in ran.stderr
    line = [python.with_name("quantsam"), "segment", picture, "--bundle", bundle, "--box", "10,10,100,100"]
    ran = subprocess.run([*line, "--out", tmp_path / "m.png"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "m.png").exists()
