import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

import quantsam as qs
from quantsam.engines.onnx_decoder import decoder_to_onnx
from quantsam.errors import BundleError, EngineError, InputError, OutputError, PlanError
from quantsam.metrics.iou import mask_iou
from quantsam.notices import InexactWarning
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.segmenter import ModelSegmenter
from quantsam.quant.saturation import saturating_channels
from quantsam.results.machine import instruction_sets
from quantsam.runtime import bundle, engines, processor, verify
from quantsam.runtime.engines import open_session
from quantsam.runtime.manifest import read_manifest
from quantsam.runtime.manifest import test_image as check_image
from quantsam.runtime.processor import processor_text
from quantsam.runtime.sessions import SessionOptions


@pytest.fixture(scope="module")
def nano():
    return qs.load_model("nano")


@pytest.fixture(scope="module")
def scene():
    dataset = qs.open_dataset("scenes:1:5")
    image_id = dataset.image_ids[0]
    return dataset.image(image_id), [list(a.box_xyxy) for a in dataset.annotations(image_id)]


@pytest.fixture(scope="module")
def bundles(nano, tmp_path_factory):
    made = {}
    for engine in ("onnxruntime", "openvino"):
        plan = qs.calibrate(nano, qs.make_plan(nano, "int8", engine), qs.open_images("scenes:4:1"))
        folder = tmp_path_factory.mktemp("bundle") / engine
        qs.export_bundle(nano, plan, folder)
        made[engine] = (folder, nano.with_encoder(qs.make_engine_encoder(nano, plan, engine)))
    return made


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_decoder_is_pytorchs(tiny, engine):
    session = open_session(engine, decoder_to_onnx(tiny).SerializeToString(), SessionOptions(1))
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(1, tiny.variant.embed_dim, 16, 16, generator=generator)
    for batch, count, with_box in ((1, 1, False), (3, 4, False), (2, 2, True), (5, 0, True)):
        points = torch.rand(batch, count, 2, generator=generator) * 64
        labels = torch.randint(0, 2, (batch, count), generator=generator)
        corners = torch.rand(batch, 2, 2, generator=generator) * 64
        last = (
            (corners, torch.tensor([[2, 3]] * batch)) if with_box else (torch.zeros(batch, 1, 2), -torch.ones(batch, 1))
        )
        found = session.run(
            {
                "embedding": embedding.numpy(),
                "points": torch.cat([points, last[0]], 1).numpy(),
                "labels": torch.cat([labels, last[1].long()], 1).numpy(),
            }
        )
        prompts = {"points": (points, labels) if count else None, "boxes": corners.flatten(1) if with_box else None}
        with torch.inference_mode():
            three = tiny.decode(embedding, multimask=True, **prompts)
            one = tiny.decode(embedding, multimask=False, **prompts)
        for index, name in enumerate(("masks", "predicted_iou")):
            expected = torch.cat([one[index], three[index]], 1).numpy()
            np.testing.assert_allclose(found[name], expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_bundle_gives_the_full_packages_masks(bundles, scene, engine):
    folder, model = bundles[engine]
    image, boxes = scene
    whole, alone = ModelSegmenter(model), qs.load_bundle(folder, threads=1)
    whole.set_image(image)
    alone.set_image(image)
    prompts = [
        {"boxes": np.asarray(boxes, np.float32)},
        {"points": np.asarray([[[60, 70], [90, 80]]], np.float32), "labels": np.asarray([[1, 0]], np.float32)},
        {
            "points": np.asarray([[[60, 70]]], np.float32),
            "labels": np.asarray([[1]], np.float32),
            "boxes": np.asarray(boxes[:1], np.float32),
        },
    ]
    for prompt in prompts:
        expected, found = whole.best_masks(**prompt), alone.best_masks(**prompt)
        np.testing.assert_allclose(found[1], expected[1], atol=1e-4)
        assert min(mask_iou(a, b) for a, b in zip(found[0], expected[0], strict=True) if b.any()) > 0.99


def test_a_bundle_segments_everything_as_the_full_package(bundles, scene):
    folder, model = bundles["onnxruntime"]
    grid = GridSettings(points_per_side=6, iou_threshold=0.1, stability_threshold=0.05, crop_layers=1)
    expected = ModelSegmenter(model).segment_everything(scene[0], grid, None)
    found = qs.load_bundle(folder, threads=1).segment_everything(scene[0], grid)
    assert len(expected) > 3
    assert [m.point_xy for m in found] == [m.point_xy for m in expected]
    assert all(mask_iou(a.mask(), b.mask()) > 0.99 for a, b in zip(found, expected, strict=True))


def test_torch_is_never_imported(bundles):
    script = f"""
import sys
sys.modules["torch"] = None  # importing it raises
import numpy as np
from quantsam.runtime.bundle import load_bundle
predictor = load_bundle({str(bundles["openvino"][0])!r})
predictor.set_image(np.zeros((60, 80, 3), np.uint8))
masks, iou, _ = predictor.predict_batch(boxes=[[5, 5, 50, 40], [1, 2, 30, 30]])
assert masks.shape == (2, 3, 60, 80) and masks.dtype == bool and iou.shape == (2, 3)
others = [m for m in sys.modules if m.split(".")[0] in ("scipy", "numba", "faster_coco_eval", "pyarrow", "onnx")]
assert others == [], others
"""
    ran = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_manifest(bundles, nano):
    folder, _ = bundles["openvino"]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["model"], manifest["scheme"], manifest["placement"]) == ("nano", "int8", "openvino")
    assert manifest["documents"].keys() == {"README.md", "model-card.md", "run.py", "segment.cpp", "CMakeLists.txt"}
    named = {**manifest["files"], **manifest["documents"]}
    assert {*named, "manifest.json"} == {p.name for p in folder.iterdir()}
    assert manifest["processors"] == "any"
    assert manifest["exported_on"] == processor_text()
    assert len(manifest["check"]["layers"]) == 12  # one of each kind, and one depthwise of the branches
    for name, entry in named.items():
        assert entry["size_bytes"] == (folder / name).stat().st_size
    assert check_image().shape == (120, 160, 3)
    assert len(np.unique(check_image())) > 200


@pytest.fixture(scope="module")
def unsafe(nano, tmp_path_factory):
    """Bundles whose sums saturate on processors without VNNI, with their plans."""
    made = {}
    for engine in ("onnxruntime", "openvino"):
        plan = qs.calibrate(nano, qs.make_plan(nano, "int8", f"{engine}+vnni"), qs.open_images("scenes:2:1"))
        folder = tmp_path_factory.mktemp("unsafe") / engine
        assert qs.export_bundle(nano, plan, folder).processors == "vnni"
        made[engine] = (folder, plan)
    return made


class SaturatingLayers:
    """A session that gives what the engine's kernels give without VNNI, by the simulation that QEMU confirmed."""

    def __init__(self, model, plan):
        encoder = qs.simulate(model, plan, saturate=True).encoder
        sites = [site for site in plan.sites if site.role == "weight"]
        self.layers = {site.label: encoder.get_submodule(site.path) for site in sites}

    def run(self, inputs):
        with torch.inference_mode():
            return {
                name.replace("given", "found"): self.layers[name.removesuffix("given")](torch.from_numpy(x)).numpy()
                for name, x in inputs.items()
            }


def without_vnni(monkeypatch, model, plan):
    """Let layers saturate as they do without VNNI, unless the engine is told to add in 32 bits; return the options."""
    monkeypatch.setattr(bundle, "adds_in_32_bits", lambda name: False)
    monkeypatch.setattr(processor, "adds_in_32_bits", lambda name: False)
    opened = []

    def open_graph(name, content, options):
        opened.append(options)
        return engines.open_session(name, content, options)

    def open_layers(name, content, options):
        session = open_graph(name, content, options)
        return session if options.wide_sums else SaturatingLayers(model, plan)

    monkeypatch.setattr(bundle, "open_session", open_graph)
    monkeypatch.setattr(verify, "open_session", open_layers)
    return opened


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_every_layer_that_can_saturate_is_seen_to(nano, unsafe, engine):
    folder, plan = unsafe[engine]
    check = json.loads((folder / "manifest.json").read_text())["check"]["layers"]
    with np.load(folder / "check.npz") as arrays:
        given = {name: arrays[name] for name in arrays.files if name.endswith("given")}
        expected = {name: arrays[name] for name in arrays.files if name.endswith("found")}
    found = SaturatingLayers(nano, plan).run(given)
    lost = {label for label in check if np.abs(found[f"{label}found"] - expected[f"{label}found"]).max() > check[label]}
    exact = qs.simulate(nano, plan, exact=True).encoder
    codes = {
        site.label: exact.get_submodule(site.path).get_buffer("codes") for site in plan.sites if site.role == "weight"
    }
    assert lost == {label for label in check if saturating_channels(codes[label]).any()}
    assert len(lost) >= 6


def test_a_bundle_for_vnni_is_refused_where_openvino_saturates(nano, unsafe, monkeypatch):
    folder, plan = unsafe["openvino"]
    without_vnni(monkeypatch, nano, plan)
    with pytest.raises(BundleError, match=r"layer .* in check.onnx must be within .* of exact integers, got") as caught:
        qs.load_bundle(folder, threads=1)
    assert str(caught.value).endswith("export again for openvino with --processors any, or for onnxruntime")


AVX2 = "import sys, quantsam as qs; qs.load_bundle(sys.argv[1], threads=1)"


@pytest.mark.skipif("avx2" not in instruction_sets(), reason="this processor has no kernels of AVX2")
def test_openvinos_own_kernels_without_vnni(unsafe, bundles):
    """Its kernels are limited to AVX2, where products are added in pairs."""

    def load(folder):
        environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
        command = [sys.executable, "-c", AVX2, str(folder)]
        return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)

    refused, taken = load(unsafe["openvino"][0]), load(bundles["openvino"][0])
    assert "of exact integers, got" in refused.stderr.splitlines()[-1]
    assert taken.returncode == 0, taken.stderr


def test_a_bundle_for_vnni_that_is_not_verified_is_warned_of(nano, unsafe, monkeypatch):
    folder, plan = unsafe["openvino"]
    without_vnni(monkeypatch, nano, plan)
    with pytest.warns(
        InexactWarning, match="bundle .* is exact only where products are added in 32 bits, got .* --processors any"
    ):
        qs.load_bundle(folder, threads=1, verify=False)


def test_onnx_runtime_is_told_to_add_in_32_bits_where_a_bundle_needs_it(nano, unsafe, monkeypatch):
    folder, plan = unsafe["onnxruntime"]
    opened = without_vnni(monkeypatch, nano, plan)
    qs.load_bundle(folder, threads=1)
    assert [options.wide_sums for options in opened] == [True] * 3  # encoder, decoder, layers


def test_a_safe_bundle_needs_no_wide_sums(nano, bundles, monkeypatch):
    plan = qs.calibrate(
        nano, qs.make_plan(nano, "int8", "onnxruntime"), qs.open_images("scenes:4:1")
    )  # as the bundle's
    opened = without_vnni(monkeypatch, nano, plan)
    qs.load_bundle(bundles["onnxruntime"][0], threads=1)
    assert [options.wide_sums for options in opened] == [False] * 3


def edited(folder, target, name, change):
    target.mkdir()
    for file in folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    content = (target / name).read_bytes()
    (target / name).write_bytes(change(content))
    return target


def signed(values):
    """Return a manifest's content with a checksum that is right."""
    told = {name: value for name, value in values.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
    return json.dumps(told | {"digest": digest}).encode()


def manifest_with(**changes):
    return lambda content: signed(json.loads(content) | changes)


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("encoder.onnx", lambda c: c[:-1], BundleError, "encoder.onnx of bundle .* is not the file that was exported"),
        ("manifest.json", lambda c: c[:-9], BundleError, "manifest.json of bundle .* is damaged"),
        ("manifest.json", lambda c: b"[]", BundleError, "manifest.json of bundle .* is damaged"),
        (
            "manifest.json",
            lambda c: json.dumps(json.loads(c) | {"pixel_mean": [1, 2, 3]}).encode(),
            BundleError,
            "manifest.json of bundle .* is not the file that was exported: copy the bundle again, or export it again",
        ),
        (
            "manifest.json",
            manifest_with(version=9),
            BundleError,
            "must have version 2 or 3 or 4, got 9: export it again",
        ),
        ("manifest.json", manifest_with(input_size=-1), BundleError, "is damaged"),
        ("manifest.json", manifest_with(files={}), BundleError, "is damaged"),
        ("manifest.json", manifest_with(engine="abacus"), InputError, "engine must be one of onnxruntime, openvino"),
        (
            "manifest.json",
            lambda c: signed((m := json.loads(c)) | {"check": m["check"] | {"least_mask_iou": 1.1}}),
            BundleError,
            "masks of the test image must have a mean IoU of at least 1.1 with the exporter's, got ",
        ),
        (
            "manifest.json",
            manifest_with(processors="avx9"),
            BundleError,
            "is damaged .*processors must be 'any' or 'vnni'",
        ),
        ("check.npz", lambda c: c[:-9], BundleError, "check.npz of bundle .* is not the file that was exported"),
        ("check.onnx", lambda c: c + b"0", BundleError, "check.onnx of bundle .* is not the file that was exported"),
    ],
    ids=range(12),
)
def test_a_damaged_bundle(bundles, tmp_path, name, change, error, message):
    folder = edited(bundles["openvino"][0], tmp_path / "copy", name, change)
    with pytest.raises(error, match=message) as caught:
        qs.load_bundle(folder, threads=1)
    assert "\n" not in str(caught.value)


def test_a_foreign_graph_without_verification(bundles, tmp_path):
    folder = edited(bundles["openvino"][0], tmp_path / "copy", "encoder.onnx", lambda c: b"junk")
    with pytest.raises(EngineError, match=r"encoder.onnx of bundle .*: openvino cannot run the graph"):
        qs.load_bundle(folder, verify=False)


def test_what_is_no_bundle(tmp_path, bundles):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(BundleError, match=r"bundle must be a folder with manifest.json"):
            qs.load_bundle(path)
    (tmp_path / "manifest.json").write_bytes((bundles["openvino"][0] / "manifest.json").read_bytes())
    with pytest.raises(BundleError, match=r"must have a readable encoder.onnx: No such file"):
        qs.load_bundle(tmp_path)


def test_an_engine_without_the_kernels(bundles):
    with pytest.raises(EngineError, match="onnxruntime cannot run the graph"):
        qs.load_bundle(bundles["openvino"][0], engine="onnxruntime")


def test_bad_prompts(bundles):
    predictor = qs.load_bundle(bundles["openvino"][0], threads=1, verify=False)
    with pytest.raises(InputError, match="a predictor needs an image before prompts"):
        predictor.predict(box=[0, 0, 5, 5])
    predictor.set_image(np.zeros((60, 80, 3), np.uint8))
    for prompt, message in (
        ({}, "needs points or boxes, got neither"),
        ({"points": [[1, 2]]}, "points and labels must be given together"),
        ({"box": [1, 2, 3]}, "a box must be 4 numbers"),
        ({"box": [[1, 2, 3, 4], [1, 2, 3, 4]]}, "give one box to predict, several to predict_batch"),
        ({"box": [1, 2, 3, float("nan")]}, "box must be finite"),
        ({"box": "abc"}, "box must be an array of numbers"),
        ({"points": [[1, 2]], "labels": [2]}, "a label must be 1 .* got 2"),
        ({"points": [[1, 2]], "labels": [1, 1]}, r"points must be \(N, 2\) with \(N,\) labels"),
    ):
        with pytest.raises(InputError, match=message):
            predictor.predict(**prompt)
    with pytest.raises(InputError, match="one box for each set of points"):
        predictor.predict_batch(points=[[[1, 2]]], labels=[[1]], boxes=[[1, 2, 3, 4]] * 2)


@pytest.mark.parametrize("prompt", [{"box": [5, 8, 60, 70]}, {"points": [[60, 70], [90, 80]], "labels": [1, 0]}])
@pytest.mark.parametrize("multimask", [True, False])
def test_one_call_for_a_bundle_and_for_the_full_model(bundles, scene, prompt, multimask):
    folder, model = bundles["onnxruntime"]
    answers = []
    for predictor in (qs.Predictor(model), qs.load_bundle(folder, threads=1)):
        predictor.set_image(scene[0])
        answers.append(predictor.predict(**prompt, multimask=multimask))
    whole, alone = answers
    assert type(whole) is type(alone)
    assert alone.masks.shape == whole.masks.shape == (3 if multimask else 1, *scene[0].shape[:2])
    np.testing.assert_allclose(alone.predicted_iou, whole.predicted_iou, atol=1e-4)
    np.testing.assert_allclose(alone.low_res_logits, whole.low_res_logits, atol=1e-2)
    assert alone.best == whole.best
    assert mask_iou(alone.masks[alone.best], whole.masks[whole.best]) > 0.99


def test_what_a_user_put_beside_a_bundle_is_kept(nano, tmp_path):
    plan, folder = qs.make_plan(nano, "fp32", "openvino"), tmp_path / "b"
    qs.export_bundle(nano, plan, folder)
    qs.export_bundle(nano, plan, folder)  # nothing of the user's is there

    def refused(name, message):
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        with pytest.raises(OutputError, match=message):
            qs.export_bundle(nano, plan, folder)
        assert {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()} == before
        (folder / name).unlink()

    for name in ("masks.png", "build/segment"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"mine")
        refused(name, f"cannot write the bundle .*: the folder also holds '{name}', choose an absent or empty one")
    program = folder / "run.py"
    program.write_text(program.read_text() + "# mine")
    assert read_manifest(folder).changed_documents(folder) == ("run.py",)
    refused("run.py", "run.py was changed there and would be lost, choose another folder, or delete that file")
    (folder / "encoder.onnx").write_bytes(b"damaged")  # an export mends it
    qs.export_bundle(nano, plan, folder)
    assert qs.load_bundle(folder, threads=1).manifest.documents.keys() > {"run.py"}
    (folder / "manifest.json").write_text("{")
    refused("manifest.json", "the folder also holds 'CMakeLists.txt'")


def test_where_a_bundle_may_be_written(nano, tmp_path):
    plan, size = qs.make_plan(nano, "fp32", "openvino"), nano.variant.input_size
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError):
        qs.export_bundle(nano, plan, tmp_path / "mine")
    with pytest.raises(PlanError, match="a plan for openvino must have placement"):
        qs.export_bundle(
            nano,
            qs.calibrate(nano, qs.make_plan(nano, "int8@neck", "thesis"), [torch.randn(1, 3, size, size)]),
            tmp_path / "b",
            engine="openvino",
        )
    assert not (tmp_path / "b").exists()
