"""`agree`, `export`, `segment --bundle`, `evaluate --engine`, `latency`, `audit`."""

import json

import pytest
from PIL import Image

import quantsam as qs

FEW = ("--calibration", "scenes:2:1")


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    dataset = qs.open_dataset("scenes:1:5")
    path = tmp_path_factory.mktemp("picture") / "scene.png"
    Image.fromarray(dataset.image(dataset.image_ids[0])).save(path)
    return str(path)


def test_agree(run, convolutions):
    table = run("agree", *FEW, "--data", "scenes:2:3", "--engine", "openvino", "--noise-images", "1", "--exact")
    assert table.code == 0, table.err
    for word in ("gap", "mask IoU", f"{convolutions} of {convolutions}", "on one thread", "kept in"):
        assert word in table.out
    listed = run("results", "--kind", "agree", "--engine", "openvino")
    assert "1 result" in listed.out
    assert "gap" in listed.out
    assert "no results match" in run("results", "--kind", "agree", "--engine", "tensorrt").err
    found = run(
        "agree", *FEW, "--data", "scenes:1:3", "--engine", "onnxruntime", "--layers", "--noise-images", "0", "--json",
        "--no-store",
    ).json  # fmt: skip
    (record,) = found["records"]
    assert record["figures"]["convolutions_integer"] == convolutions
    (layers,) = found["layers"].values()
    assert len(layers) == convolutions
    assert {layer["operator"] for layer in layers} == {"QLinearConv"}


def test_layers_of_agree_are_a_table(run):
    ran = run(
        "agree", *FEW, "--data", "scenes:1:3", "--engine", "openvino", "--layers", "--noise-images", "0", "--no-store"
    )
    assert "layer by layer" in ran.out
    assert "exact simulation: " in ran.out


def test_export_and_segment_with_the_bundle(run, tmp_path, picture):
    bundle = str(tmp_path / "bundle")
    ran = run("export", "--engine", "openvino", *FEW, "--out", bundle)
    assert ran.code == 0, ran.err
    assert "decoder.onnx" in ran.out
    out, masks = str(tmp_path / "out.png"), tmp_path / "masks.json"
    segment = ("segment", picture, "--box", "20,20,120,120", "--out", out)
    ran = run(*segment, "--bundle", bundle, "--masks", str(masks))
    assert ran.code == 0, ran.err
    assert "mask 1: " in ran.out
    assert len(json.loads(masks.read_text())) == 1
    ran = run("segment", picture, "--everything", "--points-per-side", "4", "--bundle", bundle, "--out", out, "--json")
    assert set(ran.json["masks"]) == {"int8"}
    run(*segment, "--bundle", bundle, "--scheme", "int8").complains(2, "--bundle and --scheme exclude each other")
    run(*segment, "--engine", "openvino").complains(2, "--engine is of --bundle")
    run(*segment, "--bundle", str(tmp_path)).complains(1, "bundle must be a folder with manifest.json")


def test_export_for_tensorrt_gives_the_line_that_builds_it(run, tmp_path):
    bundle = str(tmp_path / "bundle")
    found = run("export", "--engine", "tensorrt", *FEW, "--out", bundle, "--json").json
    assert found["trtexec"].startswith(f"trtexec --onnx={bundle}/encoder.onnx")


def test_export_of_a_plan(run, tmp_path):
    plan = str(tmp_path / "plan")
    calibrate = run("calibrate", "--placement", "onnxruntime", *FEW, "--out", plan, "--json").json
    found = run("export", "--plan", plan, "--out", str(tmp_path / "bundle"), "--json").json
    assert found["plan_digest"] == calibrate["digest"]
    again = ("export", "--plan", plan, "--out", str(tmp_path / "b"))
    run(*again, "--engine", "openvino").complains(1, "a plan for openvino must have placement 'openvino'")
    run(*again, "--scheme", "int8").complains(2, "--plan and --scheme exclude each other")
    run("export", "--engine", "abacus", "--out", plan).complains(2, "engine must be one of onnxruntime")
    run("export", "--out", plan).complains(1, "cannot write")


def test_evaluate_on_an_engine(run):
    args = ("evaluate", "--data", "scenes:2:3", *FEW, "--no-store", "--json", "--scheme", "fp32", "--scheme", "int8")
    whole, quantized = run(*args, "--engine", "openvino").json
    assert (whole["engine"], quantized["engine"], quantized["placement"]) == ("openvino", "openvino", "openvino")
    assert abs(whole["figures"]["miou"] - run(*args).json[0]["figures"]["miou"]) < 0.01
    (fast,) = run(*args[:-4], "--engine", "openvino", "--precision", "bf16").json
    assert fast["settings"]["precision"] == "bf16"
    run(*args, "--precision", "bf16").complains(2, "precision bf16 is of openvino")
    run(*args, "--engine", "openvinu").complains(2, "did you mean 'openvino'")
    run(*args, "--engine", "openvino", "--placement", "thesis").complains(
        2, "engine openvino has a placement of its own"
    )
    run(*args, "--engine", "tensorrt").complains(1, "package tensorrt", "trtexec")


def test_latency(run):
    found = run(
        "latency", *FEW, "--engine", "openvino", "--rounds", "1", "--warm-up", "0", "--threads", "1", "--json"
    ).json
    assert [(e["what"], e["scheme"]) for e in found["latencies"][:2]] == [("encoder", "fp32"), ("encoder", "int8")]
    kept = run("results", "--kind", "latency", "--json").json
    assert [(r["engine"], r["scheme"], r["placement"]) for r in kept] == [
        *(("openvino", "fp32", "openvino"), ("openvino", "int8", "openvino"))
    ]
    assert [r["times"]["encoder_ms_median"] for r in kept] == [e["median_ms"] for e in found["latencies"][:2]]
    ran = run("latency", "--random-weights", "--engine", "openvino", "--rounds", "1", "--threads", "1", "--no-store")
    assert "random weights: for latency and size only" in ran.out
    assert len(run("results", "--kind", "latency", "--json").json) == 2
    run("latency", "--engine", "tensorrt").complains(1, "trtexec")


def test_audit(run):
    ran = run("audit", "--calibration", "scenes:2:1", "--top", "3")
    assert ran.out.splitlines()[-1].startswith("FP16 ")
    found = run("audit", "--calibration", "scenes:2:1", "--json").json
    assert len(found["tensors"]) > 200
    assert found["tensors"][0]["largest"] >= found["tensors"][1]["largest"]


def test_agree_says_what_it_compared_with_and_on_which_processor(run):
    ran = run("agree", *FEW, "--data", "scenes:2:3", "--engine", "onnxruntime", "--noise-images", "1", "--no-store")
    assert ran.code == 0, ran.err
    for words in ("too few objects to tell: ", "at least 30 are needed", "processor: ", "itself in integers"):
        assert words in ran.out


def test_a_plan_for_vnni_is_named_in_every_result(run):
    for_vnni = ("--processors", "vnni", "--engine", "onnxruntime", *FEW)
    ran = run("evaluate", *for_vnni, "--scheme", "int8", "--data", "scenes:1:3", "--json")
    (record,) = ran.json
    assert record["placement"] == "onnxruntime+vnni"
    assert record["settings"]["processors"] == "vnni"
    ran = run("agree", *for_vnni, "--data", "scenes:1:3", "--noise-images", "0", "--no-store")
    assert "int8, VNNI only" in ran.out


def test_a_warning_is_one_line(run, monkeypatch):
    from quantsam.engines import encoder

    monkeypatch.setattr(encoder, "adds_in_32_bits", lambda engine: False)
    ran = run(
        "evaluate", "--processors", "vnni", "--engine", "openvino", *FEW, "--scheme", "int8", "--data", "scenes:1:3",
        "--no-store", "--json",
    )  # fmt: skip
    assert ran.code == 0
    assert ran.err.startswith(
        "quantsam: note: plan int8/openvino+vnni is exact only where products are added in 32 bits"
    )
    assert ran.err.count("\n") == 1
    assert "calibrate or export again for openvino with --processors any, or for onnxruntime" in ran.err
    assert ran.json[0]["settings"]["exact"] is False


def test_audit_counts_what_would_saturate(run, convolutions):
    images = ("--calibration", "scenes:1:1", "--top", "1")
    ran = run("audit", "--scheme", "int8", "--processors", "vnni", *images)
    assert ran.code == 0, ran.err
    assert "Integer sums without VNNI" in ran.out
    assert "take --processors any" in ran.out
    found = run("audit", "--scheme", "int8", "--processors", "vnni", "--engine", "openvino", *images, "--json").json
    layers = {entry["layer"]: entry for entry in found["saturation"]["layers"]}
    assert len(layers) == convolutions
    assert layers["stage3:0:1"]["can_saturate"] == 0  # depthwise
    assert layers["stage3:0:0"]["channels"] >= layers["stage3:0:0"]["can_saturate"] > 100
    assert 0 < layers["stage3:0:0"]["did_saturate"] < layers["stage3:0:0"]["can_saturate"]
    assert layers["stage3:0:0"]["worst"] > 0.01
    safe = run("audit", "--scheme", "int8", *images, "--json").json
    assert {entry["can_saturate"] for entry in safe["saturation"]["layers"]} == {0}
    assert "exact on every processor" in safe["saturation"]["conclusion"]


def test_what_audit_refuses(run, plan):
    both = run("audit", "--scheme", "int8", "--plan", plan)
    both.complains(2, "--scheme and --plan exclude each other")
    thesis = run("audit", "--plan", plan, "--calibration", "scenes:1:1")
    thesis.complains(1, "only plans for onnxruntime and openvino have sums that saturate, got placement 'thesis'")


def test_processors_that_would_change_nothing_are_refused(run, tmp_path):
    vnni = ("--processors", "vnni")
    run("latency", "--engine", "pytorch", *vnni).complains(
        2, "--processors vnni is of --engine onnxruntime and openvino"
    )
    run("export", "--engine", "tensorrt", *vnni, "--out", tmp_path / "b").complains(2, "got tensorrt: leave it out")
    both = ("evaluate", "--engine", "openvino", "--placement", "openvino", *vnni)
    run(*both).complains(2, "--processors and --placement exclude each other", "got openvino")
    run("audit", "--engine", "openvino").complains(2, "--engine needs --scheme, got none", "add --scheme int8")
    run("audit", "--plan", "p", "--engine", "openvino").complains(2, "--plan and --engine exclude each other")
