"""A bundle that explains itself and runs alone: its page, its card, its program, and the check-up."""

import dataclasses
import json
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from PIL import Image

import quantsam as qs
from quantsam.bundles.documents import documents
from quantsam.diagnostics.audit import audit_half_precision
from quantsam.engines.half import HEADROOM, find_overflows, with_half_precision
from quantsam.engines.onnx_decoder import decoder_to_onnx
from quantsam.engines.onnx_encoder import encoder_to_onnx
from quantsam.engines.stored import with_stored_weights
from quantsam.errors import BundleError, CalibrationError, PlanError
from quantsam.metrics.iou import mask_iou
from quantsam.models.outliers import with_outlier_channels
from quantsam.prediction.grid import GridSettings
from quantsam.prediction.transforms import preprocess
from quantsam.runtime.checkup import check_up
from quantsam.runtime.manifest import read_manifest
from quantsam.runtime.onnxruntime import _told_by_profile, executed_convolutions

BOX = "40,60,200,190"


@pytest.fixture(scope="module")
def nano():
    return qs.load_model("nano")


@pytest.fixture(scope="module")
def plans(nano):
    return {
        engine: qs.calibrate(nano, qs.make_plan(nano, "int8", engine), qs.open_images("scenes:2:1"))
        for engine in ("onnxruntime", "openvino")
    }


@pytest.fixture(scope="module")
def bundles(nano, plans, tmp_path_factory):
    made = {engine: tmp_path_factory.mktemp("alone") / engine for engine in plans}
    for engine, folder in made.items():
        qs.export_bundle(nano, plans[engine], folder)
    return made


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """A scene that is no square, as a file, and its pixels."""
    image = qs.open_dataset("scenes:1:3").image(1)[:200]
    path = tmp_path_factory.mktemp("picture") / "p.png"
    Image.fromarray(image).save(path)
    return path, image


def run_alone(folder, *arguments, program="run.py", path=()):
    """Run a bundle's own program where quantsam and PyTorch cannot be imported; `path` is searched for modules too."""
    script = (
        "import runpy, sys\n"
        "sys.modules['quantsam'] = sys.modules['torch'] = None\n"
        f"sys.path[:0] = {[str(folder), *map(str, path)]!r}\n"  # as Python does for a program's own folder
        f"sys.argv = [{program!r}, *{[str(a) for a in arguments]!r}]\n"
        f"runpy.run_path({str(folder / program)!r}, run_name='__main__')\n"
    )
    return subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_the_program_gives_quantsams_masks(bundles, picture, tmp_path, engine):
    path, image = picture
    prompts = ("--box", BOX, "--point", "100,90", "--point", "30,40,0")
    ran = run_alone(bundles[engine], path, *prompts, "--out", tmp_path / "m.png", "--masks", tmp_path / "m.npz")
    assert ran.returncode == 0, ran.stderr
    assert f"2 masks, drawn on {tmp_path / 'm.png'}" in ran.stdout
    predictor = qs.load_bundle(bundles[engine], threads=1, verify=False)
    predictor.set_image(image)
    box = predictor.best_masks(boxes=[[float(v) for v in BOX.split(",")]])
    points = predictor.best_masks(points=[[[100, 90], [30, 40]]], labels=[[1, 0]])
    with np.load(tmp_path / "m.npz") as found:
        for number, (masks, iou) in enumerate((box, points)):
            assert found["predicted_iou"][number] == pytest.approx(iou[0], abs=1e-3)
            assert mask_iou(found["masks"][number], masks[0]) > 0.995
    with Image.open(tmp_path / "m.png") as painted:
        changed = (np.asarray(painted) != image).any(-1)
    assert mask_iou(changed, box[0][0] | points[0][0]) > 0.95


def test_the_program_turns_an_image_upright_as_quantsam_does(bundles, picture, tmp_path):
    path, image = picture
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned by a quarter to the left
    turned = tmp_path / "turned.png"
    Image.fromarray(np.ascontiguousarray(np.rot90(image))).save(turned, exif=exif)
    assert (qs.load_image(turned, apply_exif=True) == image).all()
    found = []
    for number, file in enumerate((path, turned)):
        out = ("--out", tmp_path / f"{number}.png", "--masks", tmp_path / f"{number}.npz")
        ran = run_alone(bundles["onnxruntime"], file, "--box", BOX, *out)
        assert ran.returncode == 0, ran.stderr
        with np.load(tmp_path / f"{number}.npz") as kept:
            found.append(kept["masks"])
    assert found[0].shape[1:] == image.shape[:2]
    assert (found[0] == found[1]).all()


def test_the_program_finds_everything_as_quantsam_does(bundles, picture, tmp_path):
    path, image = picture
    line = ("--everything", "--side", "6", "--least-iou", "0.3", "--least-stability", "0.3")
    ran = run_alone(bundles["onnxruntime"], path, *line, "--out", tmp_path / "m.png", "--masks", tmp_path / "m.npz")
    assert ran.returncode == 0, ran.stderr
    predictor = qs.load_bundle(bundles["onnxruntime"], threads=1, verify=False)
    settings = GridSettings(points_per_side=6, iou_threshold=0.3, stability_threshold=0.3)
    expected = [m.mask() for m in predictor.segment_everything(image, settings)]
    with np.load(tmp_path / "m.npz") as found:
        masks = found["masks"]
    assert len(expected) > 2
    same = sum(max(mask_iou(mask, other) for other in expected) > 0.9 for mask in masks)
    assert same >= 0.8 * len(masks)
    assert abs(len(masks) - len(expected)) <= 0.3 * len(expected)


def test_bad_input_to_the_program_is_one_line(bundles, picture, tmp_path):
    path, _ = picture
    folder = bundles["onnxruntime"]
    (tmp_path / "text.png").write_text("no picture")
    for arguments, words in (
        ((path, "--box", "1,2,3"), "run.py: '1,2,3' must be 4 numbers between commas, in pixels"),
        ((path, "--box", "9,2,3,8"), "run.py: box '9,2,3,8' must be x0,y0,x1,y1 with x0 < x1 and y0 < y1"),
        ((path, "--box", "900,2,950,8"), "run.py: box '900,2,950,8' must overlap the image, 256 x 200 pixels"),
        ((path, "--point", "5,200"), "run.py: point '5,200' must lie in the image, 256 x 200 pixels"),
        ((path, "--box", "1,2,1e39,8"), "must be 4 numbers between commas"),
        ((path, "--point", "5,5,2"), "run.py: point '5,5,2' must end in 1 (on the object) or 0 (off it)"),
        ((path, "--everything", "--side", "0"), "--side must be at least 1, got 0"),
        ((path, "--box", BOX, "--out", tmp_path / "m.txt"), "m.txt must end in .bmp, .jpeg"),
        ((path, "--box", BOX, "--out", tmp_path / "no" / "m.png"), "must be in a folder that exists"),
        ((path, "--box", BOX, "--masks", tmp_path / "m.npy"), "m.npy must end in .npz"),
        ((path, "--point", "1,nan"), "must be 2 or 3 numbers"),
        ((path,), "give --box, --point or --everything"),
        ((tmp_path / "text.png", "--box", BOX), "text.png is not an image that can be read"),
    ):
        ran = run_alone(folder, *arguments)
        assert ran.returncode != 0
        assert words in ran.stderr
        assert "Traceback" not in ran.stderr


def test_a_changed_graph_is_refused_by_the_program(nano, plans, picture, tmp_path):
    qs.export_bundle(nano, plans["onnxruntime"], tmp_path / "b")
    for name, change, words in (
        ("encoder.onnx", lambda c: c[:-1] + b"?", "encoder.onnx is not the file that was exported"),
        (
            "manifest.json",
            lambda c: c.replace(b"123.675", b"123.676"),
            "manifest.json is not the file that was exported",
        ),
        ("manifest.json", lambda c: c.replace(b'"version": 4', b'"version": 5'), "has version 5, this run.py reads 4"),
        ("manifest.json", lambda c: c[:-9], "is damaged"),
        ("decoder.onnx", None, "No such file or directory"),
    ):
        path = tmp_path / "b" / name
        whole = path.read_bytes()
        path.unlink() if change is None else path.write_bytes(change(whole))
        ran = run_alone(tmp_path / "b", picture[0], "--box", BOX)
        path.write_bytes(whole)
        assert ran.returncode == 1
        assert words in ran.stderr
        assert ran.stderr.startswith(f"run.py: the bundle in {tmp_path / 'b'} is damaged")
        assert ran.stderr.endswith("copy it again, or export it again\n")


def test_the_program_says_that_an_engine_cannot_run_the_bundle(bundles, picture, tmp_path):
    line = ("--box", BOX, "--engine", "onnxruntime", "--out", tmp_path / "m.png")
    ran = run_alone(bundles["openvino"], picture[0], *line)
    assert ran.returncode == 1
    assert ran.stderr.startswith("run.py: ")
    assert len(ran.stderr.splitlines()) == 1


def test_the_program_cuts_boxes_as_quantsam_does(bundles, picture, tmp_path):
    path, image = picture
    masks = []
    for box in ("40,60,900,220", f"40,60,{image.shape[1]},{image.shape[0]}"):
        out = ("--masks", tmp_path / "m.npz", "--out", tmp_path / "m.png")
        ran = run_alone(bundles["onnxruntime"], path, "--box", box, *out)
        assert ran.returncode == 0
        assert ("is cut at the image's sides" in ran.stderr) == (box == "40,60,900,220")
        with np.load(tmp_path / "m.npz") as found:
            masks.append(found["masks"])
    assert (masks[0] == masks[1]).all()


def test_16_bits_of_grey_are_not_cut_off(bundles, picture, tmp_path):
    _, image = picture
    grey = image.mean(-1).round().astype(np.uint16)
    Image.fromarray(grey * 257).save(tmp_path / "16.png")
    Image.fromarray(grey.astype(np.uint8)).save(tmp_path / "8.png")
    masks = []
    for name in ("16", "8"):
        line = (tmp_path / f"{name}.png", "--box", BOX, "--out", tmp_path / "m.png", "--masks", tmp_path / "m.npz")
        assert run_alone(bundles["onnxruntime"], *line).returncode == 0
        with np.load(tmp_path / "m.npz") as found:
            masks.append(found["masks"][0])
    assert mask_iou(*masks) > 0.99


STAND_IN = Path(__file__).with_name("stand_in")


@pytest.fixture(scope="module")
def for_gpu(nano, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu") / "b"
    plan = qs.calibrate(nano, qs.make_plan(nano, "int8", "tensorrt"), qs.open_images("scenes:1:1"))
    qs.export_bundle(nano, plan, folder)
    return folder


def test_a_bundle_for_a_gpu_explains_itself(for_gpu, picture, tmp_path):
    page = (for_gpu / "README.md").read_text("utf-8")
    assert "$" not in page
    for words in ("python3 run.py IMAGE", "JetPack", "trtexec --onnx=encoder.onnx", "GPUs add products in 32 bits"):
        assert words in page
    program = (for_gpu / "tensorrt_engine.py").read_text("utf-8")
    assert "MOST_PROMPTS, MOST_POINTS = 16, 64" in program
    assert "--maxShapes=points:16x64x2,labels:16x64" in page
    line = (picture[0], "--box", BOX, "--out", tmp_path / "m.png")
    ran = run_alone(for_gpu, *line)
    assert ran.returncode == 1
    assert ran.stderr == "run.py: the package tensorrt is not installed: without a GPU, give --engine onnxruntime\n"
    assert run_alone(for_gpu, *line, "--engine", "onnxruntime").returncode == 0


def test_the_program_for_a_gpu_calls_tensorrt_as_documented(for_gpu, picture, tmp_path):
    """By a stand-in that computes with ONNX Runtime: we have no GPU."""
    found = {}
    for engine, path in (("onnxruntime", []), ("tensorrt", [STAND_IN])):
        out = ("--out", tmp_path / "m.png", "--masks", tmp_path / f"{engine}.npz", "--engine", engine)
        everything = ("--everything", "--side", "5", "--least-iou", "0.3", "--least-stability", "0.3")
        for _ in range(2):
            ran = run_alone(for_gpu, picture[0], "--box", BOX, "--point", "100,90", *everything, *out, path=path)
            assert ran.returncode == 0, ran.stderr
        assert ran.stderr == ""  # built before, and loaded now
        with np.load(tmp_path / f"{engine}.npz") as kept:
            found[engine] = kept["masks"], kept["predicted_iou"]
    assert len(found["tensorrt"][0]) > 2
    for a, b in zip(*found.values(), strict=True):
        np.testing.assert_array_equal(a, b)
    built = sorted(path.name for path in for_gpu.glob("*.engine"))
    assert [name.partition("-")[0] for name in built] == ["decoder", "encoder"]
    for name in built:
        (for_gpu / name).write_bytes(b"of another GPU")
    ran = run_alone(for_gpu, program="tensorrt_engine.py", path=[STAND_IN])
    assert ran.returncode == 0, ran.stderr
    assert "building encoder.onnx in TensorRT 10.8.0" in ran.stderr
    assert "decoder, a box:" in ran.stdout
    many = [text for x in range(64) for text in ("--point", f"{x},9")]
    ran = run_alone(for_gpu, picture[0], *many, *out, path=[STAND_IN])
    assert ran.returncode == 1
    assert "input points of shape (1, 65, 2) is larger than TensorRT was built for" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_the_page_has_the_manifests_numbers(bundles):
    for engine, folder in bundles.items():
        manifest, page = read_manifest(folder), (folder / "README.md").read_text("utf-8")
        assert "$" not in page
        side = manifest.input_size
        for words in (
            f"pip install numpy pillow {engine}",
            f"(1, 3, {side}, {side})",
            f"longer side is {manifest.prompt_size}",
            f"`embedding`: float32, (1, {', '.join(map(str, manifest.embedding))})",
            "mean 123.675, 116.28, 103.53, std 58.395, 57.12, 57.375",
            f"predicted IoU above {manifest.everything.iou_threshold:g}",
            "exact on every processor",
        ):
            assert words in page
    official = documents(read_manifest(bundles["openvino"]))["README.md"]
    assert "nano says nothing of the official models" in official


def test_the_card_lists_what_was_measured_of_this_plan(nano, plans, tmp_path):
    plan = plans["onnxruntime"]
    dataset = qs.open_dataset("scenes:2:3")
    own = qs.evaluate(nano.with_encoder(qs.make_engine_encoder(nano, plan, "onnxruntime")), dataset)
    other = qs.evaluate(nano, dataset)
    qs.export_bundle(nano, plan, tmp_path / "b", records=[own, other])
    card = (tmp_path / "b" / "model-card.md").read_text("utf-8")
    assert f"| scenes-2-seed3 | box | onnxruntime | {own.figures['count']} | {own.figures['miou']:.2f} |" in card
    assert card.count("scenes-2-seed3") == 1
    assert "stores numbers in fewer bits" not in card
    qs.export_bundle(nano, plan, tmp_path / "b", records=[own], decoder_weights="int8")
    assert "this bundle stores numbers in fewer bits" in (tmp_path / "b" / "model-card.md").read_text("utf-8")
    other_decoder = dataclasses.replace(own, id="9" * 32, weights_digest="00")
    qs.export_bundle(nano, plan, tmp_path / "b", records=[other_decoder])
    assert "No evaluation of this plan" in (tmp_path / "b" / "model-card.md").read_text("utf-8")
    qs.export_bundle(nano, plan, tmp_path / "b")
    assert "No evaluation of this plan" in (tmp_path / "b" / "model-card.md").read_text("utf-8")


def test_a_bundle_of_the_version_before_is_read(nano, plans, tmp_path):
    qs.export_bundle(nano, plans["openvino"], tmp_path / "b")
    manifest = tmp_path / "b" / "manifest.json"
    values = json.loads(manifest.read_text())
    for name in ("everything", "documents", "digest"):
        del values[name]
    manifest.write_text(json.dumps(values | {"version": 2}))
    assert read_manifest(tmp_path / "b").everything.iou_threshold == 0.88
    manifest.write_text(json.dumps(values | {"version": 1}))
    with pytest.raises(BundleError, match="must have version 2 or 3 or 4, got 1: export it again"):
        read_manifest(tmp_path / "b")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_a_check_up_counts_the_kernels_and_times_them(bundles, plans, convolutions, engine):
    found = check_up(bundles[engine], threads=1, rounds=2)
    assert (found.engine, found.integer, found.convolutions) == (engine, convolutions, convolutions)
    assert found.layers == len(found.manifest.check.layers) > 0
    for timing in (found.encoder, found.decoder, found.whole):
        assert 0 < timing.median_ms <= timing.p95_ms


def test_without_the_package_onnx_the_profile_tells_the_same(bundles):
    graph = (bundles["onnxruntime"] / "encoder.onnx").read_bytes()
    session = qs.load_bundle(bundles["onnxruntime"], threads=1, verify=False)._encoder
    by_graph, by_profile = executed_convolutions(graph, session), _told_by_profile(graph, session)
    assert sorted((e.label, e.operator) for e in by_profile) == sorted((e.label, e.operator) for e in by_graph)


@pytest.fixture(scope="module")
def large(tiny):
    """The same function as tiny's, with channels that float16 cannot hold."""
    return with_outlier_channels(tiny, factor=2**16)


@pytest.fixture(scope="module")
def given(tiny, picture):
    return preprocess(picture[1], tiny.variant.input_size).numpy()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of the overflow that is to be seen
def test_what_float16_cannot_hold_stays_in_float32(large, given):
    """By ONNX's own evaluator, whose numbers really are float16: processors' engines compute in float32 in between."""
    graph = encoder_to_onnx(large, qs.make_plan(large, "fp32", "onnxruntime"))
    kept = find_overflows(graph, [given])
    half = with_half_precision(graph, kept)
    whole, plain, mended = (
        ReferenceEvaluator(g).run(None, {"image": given})[0] for g in (graph, with_half_precision(graph), half)
    )
    assert not np.isfinite(plain).all()
    off = np.sqrt(np.mean((mended - whole) ** 2) / np.mean(whole**2))
    assert 0 < off < 0.01
    sizes = [len(g.SerializeToString()) for g in (half, graph)]
    assert sizes[0] < 0.8 * sizes[1]


def test_values_near_the_largest_number_are_found(large, given, picture):
    graph = encoder_to_onnx(large, qs.make_plan(large, "fp32", "onnxruntime"))
    found = find_overflows(graph, [given])
    audited = {t.name: t.largest for t in audit_half_precision(large.float_encoder, [picture[1]])}
    added = {name for node in graph.graph.node if node.op_type == "Add" for name in node.output} & audited.keys()
    assert {name for name in added if HEADROOM * audited[name] > 65504} == {name for name in found if name in added}
    assert found & added
    with pytest.raises(CalibrationError, match="half precision needs an image to look at"):
        find_overflows(graph, [])


def test_a_bundle_in_float16_gives_the_masks_of_float32(nano, picture, tmp_path):
    _, image = picture
    plan = qs.make_plan(nano, "fp32", "onnxruntime")
    manifest = qs.export_bundle(nano, plan, tmp_path / "half", half=[image])
    qs.export_bundle(nano, plan, tmp_path / "whole")
    assert manifest.precision == "f16"
    assert read_manifest(tmp_path / "half") == manifest
    assert "the rest float16" in (tmp_path / "half" / "README.md").read_text("utf-8")
    sizes = [(tmp_path / name / "encoder.onnx").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.6 * sizes[1]
    masks = []
    for name in ("half", "whole"):
        predictor = qs.load_bundle(tmp_path / name, threads=1)
        predictor.set_image(image)
        masks.append(predictor.best_masks(boxes=[[40, 60, 200, 180], [10, 10, 90, 90]])[0])
    assert min(mask_iou(a, b) for a, b in zip(*masks, strict=True)) > 0.99


def test_integers_between_float16_are_refused_where_nothing_fuses_them(nano, plans, picture, tmp_path):
    with pytest.raises(PlanError, match="onnxruntime would run convolutions between float16 tensors in float"):
        qs.export_bundle(nano, plans["onnxruntime"], tmp_path / "b", half=[picture[1]])
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize(("stored", "most_bytes", "least_iou"), [("f16", 0.53, 0.99), ("int8", 0.45, 0.9)])
def test_a_decoder_of_stored_weights_gives_nearly_the_same_masks(
    nano, plans, bundles, picture, tmp_path, engine, stored, most_bytes, least_iou
):
    _, image = picture
    manifest = qs.export_bundle(nano, plans[engine], tmp_path / "b", decoder_weights=stored)
    assert manifest.decoder_weights == read_manifest(tmp_path / "b").decoder_weights == stored
    sizes = [(folder / "decoder.onnx").stat().st_size for folder in (tmp_path / "b", bundles[engine])]
    assert sizes[0] < most_bytes * sizes[1]
    found = []
    for folder in (tmp_path / "b", bundles[engine]):
        predictor = qs.load_bundle(folder, threads=1)
        predictor.set_image(image)
        found.append(predictor.predict_batch(boxes=[[40, 60, 200, 180], [10, 10, 90, 90]])[0])
    ious = [mask_iou(a, b) for a, b in zip(found[0].reshape(6, 200, 256), found[1].reshape(6, 200, 256), strict=True)]
    assert np.mean(ious) > least_iou


def test_stored_weights_are_the_nearest_codes(nano):
    model = decoder_to_onnx(nano)
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    stored = with_stored_weights(model, "int8")
    onnx.checker.check_model(stored, full_check=True)
    parts = {t.name: onnx.numpy_helper.to_array(t) for t in stored.graph.initializer}
    matrices = [name.removesuffix(":codes") for name in parts if name.endswith(":codes")]
    assert len(matrices) > 30
    for name in matrices:
        scale = parts[f"{name}:scale"]
        assert (np.abs(parts[f"{name}:codes"] * scale - weights[name]) <= 0.5001 * scale).all()
        assert np.abs(parts[f"{name}:codes"]).max() == 127
    assert {t.name for t in with_stored_weights(model, "f32").graph.initializer} == weights.keys()


DEBIAN = "http://deb.debian.org/debian/pool/main/o/onnxruntime/libonnxruntime-dev_1.21.0+dfsg-1_amd64.deb"
"""ONNX Runtime's C++ headers: PyPI's wheel has the library alone, which runs programs built for earlier headers."""


def options_of_openvino(folder):
    """Return CMake's options for OpenVINO's Python package, which has headers and libraries."""
    from openvino import utils

    return [f"-DOpenVINO_DIR={utils.get_cmake_path()}"]


def options_of_onnxruntime(folder):
    """Return CMake's options for the headers of Debian's package and the library of the Python package."""
    import onnxruntime

    if not shutil.which("dpkg-deb"):
        pytest.skip("dpkg-deb, which unpacks ONNX Runtime's C++ headers, is not installed")
    try:
        with urllib.request.urlopen(DEBIAN, timeout=60) as answer:
            (folder / "headers.deb").write_bytes(answer.read())
    except OSError as error:
        pytest.skip(f"ONNX Runtime's C++ headers cannot be downloaded: {error}")
    subprocess.run(["dpkg-deb", "-x", folder / "headers.deb", folder / "unpacked"], check=True)
    root = folder / "onnxruntime"
    (root / "lib").mkdir(parents=True)
    (folder / "unpacked" / "usr" / "include" / "onnxruntime").rename(root / "include")
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (root / "lib" / name).symlink_to(library)
    return ["-DUSE_ONNXRUNTIME=ON", f"-DONNXRUNTIME_ROOT={root}"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "options_of"), [("openvino", options_of_openvino), ("onnxruntime", options_of_onnxruntime)]
)
def test_the_sample_in_cpp_gives_the_same_mask(engine, options_of, bundles, picture, tmp_path):
    if not all(map(shutil.which, ("cmake", "g++", "make"))):
        pytest.skip("cmake, g++ and make are not all installed")
    path, image = picture
    Image.fromarray(image).save(tmp_path / "p.ppm")
    folder = bundles[engine]
    configure = ["cmake", "-S", folder, "-B", tmp_path / "build", *options_of(tmp_path)]
    for line in (configure, ["cmake", "--build", tmp_path / "build"]):
        ran = subprocess.run(line, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
    program = tmp_path / "build" / "segment"
    box = [float(v) for v in BOX.split(",")]
    line = [program, tmp_path / "p.ppm", *map(str, box), tmp_path / "m.pgm", folder]
    ran = subprocess.run(line, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    predictor = qs.load_bundle(folder, threads=1)
    predictor.set_image(image)
    masks, iou = predictor.best_masks(boxes=[box])
    assert float(ran.stdout.split()[2]) == pytest.approx(100 * iou[0], abs=1e-3)
    with Image.open(tmp_path / "m.pgm") as found:
        assert mask_iou(np.asarray(found) > 0, masks[0]) > 0.999  # the decoder is float: sums may differ by threads
    pixels = (tmp_path / "p.ppm").read_bytes().partition(b"\n255\n")[2]
    (tmp_path / "c.ppm").write_bytes(b"P6\n# by a camera\n256 200\n255\n" + pixels)
    again = subprocess.run([program, tmp_path / "c.ppm", *line[2:]], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (0, ran.stdout)
    for changed, words in (
        ({1: path}, f"{path} must be a binary PPM (P6) of 8 bits"),
        ({1: tmp_path / "no.ppm"}, f"{tmp_path / 'no.ppm'} cannot be read"),
        ({2: "a"}, "the box must be four numbers, got a"),
        ({2: "250", 4: "40"}, "the box must be x0 y0 x1 y1 in pixels of the image, with x0 < x1 and y0 < y1"),
        ({7: tmp_path}, f"{tmp_path}/encoder.onnx is not there: name the bundle's folder"),
    ):
        given = [str(changed.get(number, text)) for number, text in enumerate(line)]
        ran = subprocess.run(given, capture_output=True, text=True, check=False)
        assert (ran.returncode, ran.stderr) == (1, f"segment: {words}\n")
