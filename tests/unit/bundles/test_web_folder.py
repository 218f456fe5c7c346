"""The folder of a page: complete, with relative addresses, known to browsers that kept an older one."""

import json
import re

import pytest

import quantsam as qs
from quantsam.bundles.web.folder import FILES, LICENSE_FILE, list_of_files, page_files
from quantsam.errors import EngineError
from quantsam.runtime.manifest import DECODER, ENCODER, MANIFEST
from quantsam.runtime.web import package

RUNTIME = {name: name.encode() for name in package.FILES}


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    plan = qs.calibrate(tiny, qs.make_plan(tiny, "int8", "onnxruntime"), [qs.SceneDataset(1, size=64).image(1)])
    path = tmp_path_factory.mktemp("web") / "page"
    qs.export_bundle(tiny, plan, path, engine="web", runtime=RUNTIME)
    return path


def listed(content):
    return json.loads(content.decode().partition("self.FOLDER = ")[2].rstrip().removesuffix(";"))


def test_the_list_names_every_file_that_the_page_reads_and_its_bytes(folder):
    told = listed((folder / FILES).read_bytes())["files"]
    present = {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    unread = {"README.md", "model-card.md", "check.onnx", "check.npz", LICENSE_FILE}
    assert told == {**{name: size for name, size in present.items() if name not in unread}, FILES: None}


def test_what_the_page_refers_to_is_there_and_nothing_is_elsewhere(folder):
    own = [path for path in folder.iterdir() if path.suffix in (".html", ".css", ".js")]
    assert len(own) > 10
    for path in own:
        text = path.read_text()
        found = re.findall(r"""(?:from|src=|href=|Worker\(|importScripts\(|import|fetch\()\s*"([^"]+)\"""", text)
        for name in found:
            assert name == "data:," or (folder / name).is_file(), (path.name, name)
        addresses = re.findall(r"\bhttps?://[\w.]+", text)
        assert set(addresses) <= {"http://www.w3.org"}, path.name  # the name of SVG


def test_another_file_is_another_version():
    bundle, page = {ENCODER: b"encoder", DECODER: b"decoder", MANIFEST: b"{}"}, page_files(RUNTIME)
    versions = [listed(list_of_files(page, {**bundle, ENCODER: e}))["version"] for e in (b"a", b"b", b"a")]
    assert versions[0] == versions[2] != versions[1]


def test_it_explains_itself_and_is_a_bundle(folder):
    readme = (folder / "README.md").read_text()
    assert f"ONNX Runtime Web {package.VERSION}" in readme
    assert "$" not in readme
    assert "python -m http.server" in readme
    assert not (folder / "run.py").exists()
    assert "Microsoft" in (folder / LICENSE_FILE).read_text()
    manifest = json.loads((folder / MANIFEST).read_text())
    assert (manifest["engine"], manifest["placement"], manifest["processors"]) == ("web", "onnxruntime", "any")
    assert qs.load_bundle(folder, engine="onnxruntime", threads=1).manifest.engine == "web"


def test_without_the_runtime_nothing_is_written(tiny, tmp_path, monkeypatch):
    def fails(*_):
        raise EngineError("no network")

    monkeypatch.setattr("quantsam.bundles.export.runtime_files", fails)
    with pytest.raises(EngineError, match="no network"):
        qs.export_bundle(tiny, qs.make_plan(tiny, "fp32", "onnxruntime"), tmp_path / "page", engine="web")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_it_is_checked_in_the_browser(folder, web, web_runtime):
    predictor = qs.load_bundle(folder, threads=1)
    predictor.set_image(qs.SceneDataset(1, size=64).image(1))
    assert predictor.best_masks(boxes=[[5, 5, 60, 60]])[0].shape == (1, 64, 64)
