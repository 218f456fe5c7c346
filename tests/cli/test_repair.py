"""`--repair`: in every command that calibrates; records, exports and plans say what was repaired."""

import pytest

FEW = ("--model", "nano-outlier", "--calibration-images", "2", "--repair", "streams,migrate")
DATA = ("--data", "scenes:2:3", "--no-store", "--json")


def test_evaluate_says_what_was_repaired(run):
    plain, repaired = (
        run("evaluate", *given, *DATA, "--scheme", "fp32", "--scheme", "int8", "--placement", "openvino").json
        for given in (FEW[:4], FEW)
    )
    assert repaired[0]["figures"]["miou"] == plain[0]["figures"]["miou"]  # FP32
    assert repaired[1]["settings"]["repairs"] == ["streams", "migrate"]
    assert "repairs" not in plain[1]["settings"]
    assert repaired[1]["figures"]["miou"] > plain[1]["figures"]["miou"] + 5


def test_a_repaired_plan_is_calibrated_evaluated_and_exported(run, tmp_path):
    pytest.importorskip("openvino")
    run("calibrate", *FEW, "--placement", "openvino", "--out", tmp_path / "plan")
    (record,) = run("evaluate", "--model", "nano-outlier", "--plan", tmp_path / "plan", *DATA).json
    assert record["settings"]["repairs"] == ["streams", "migrate"]
    line = ("export", "--model", "nano-outlier", "--engine", "openvino", "--plan", tmp_path / "plan")
    assert "it computes here what" in run(*line, "--out", tmp_path / "bundle").out
    run(*line, "--repair", "streams", "--out", tmp_path / "other").complains(
        2, "--plan and --repair exclude each other"
    )


def test_bad_names(run):
    run("evaluate", "--repair", "stream", *DATA).complains(
        2, "a repair must be one of streams, shift, migrate, ranges, bias", "'streams'"
    )
    run("evaluate", "--repair", "streams", "--no-activations", *DATA).complains(
        2, "a repair needs quantized activations"
    )
