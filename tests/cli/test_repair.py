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
    whole, hurt, mended = (record["figures"]["miou"] for record in (*plain, repaired[1]))
    assert hurt < whole - 3
    assert whole - mended < 0.5 * (whole - hurt)


def test_a_repaired_plan_is_calibrated_evaluated_and_exported(run, tmp_path):
    pytest.importorskip("openvino")
    run("calibrate", *FEW, "--placement", "openvino", "--out", tmp_path / "plan")
    (record,) = run("evaluate", "--model", "nano-outlier", "--plan", tmp_path / "plan", *DATA).json
    assert record["settings"]["repairs"] == ["streams", "migrate"]
    line = ("export", "--model", "nano-outlier", "--engine", "openvino", "--plan", tmp_path / "plan")
    assert "results are those of the exact integer simulation" in run(*line, "--out", tmp_path / "bundle").out
    run(*line, "--repair", "streams", "--out", tmp_path / "other").complains(
        2, "--plan and --repair exclude each other"
    )


def test_a_repair_that_finds_nothing_is_told(run):
    ran = run("evaluate", "--scheme", "int8@stage0", "--repair", "shift", *DATA)
    assert "shift found nothing to repair in int8@stage0 (thesis)" in ran.err


def test_bad_names(run, tmp_path):
    run("evaluate", "--repair", "stream", *DATA).complains(
        2, "a repair must be one of reflect, streams, shift, migrate, ranges, rounding, bias", "'streams'"
    )
    run("evaluate", "--repair", "streams", "--no-activations", *DATA).complains(
        2, "a repair needs quantized activations"
    )
    weights = tmp_path / "weights.toml"
    weights.write_text("[[rules]]\nweight = 'int4'\n")
    run("evaluate", "--repair", "streams", "--scheme", weights, *DATA).complains(
        2, "a repair needs a scheme that quantizes activations, got weights: add --scheme int8"
    )


SEARCH = ("repair", "nano-outlier", "--calibration", "scenes:8:1", "--engine", "openvino", "--try", "streams")


def test_repairs_are_found_and_the_plan_and_the_scheme_used(run, tmp_path):
    pytest.importorskip("openvino")
    plan, scheme, store = tmp_path / "plan", tmp_path / "own.toml", tmp_path / "store.sqlite"
    ran = run(*SEARCH, "--rounds", "1", "--out", plan, "--scheme-out", scheme, "--store", store)
    assert "repaired: streams; masks lose" in ran.out
    assert "8 held-out images" not in ran.out
    assert f"--engine openvino --plan {plan} --out BUNDLE" in ran.out
    again = run(*SEARCH, "--rounds", "1", "--store", store, "--json").json
    assert [step["name"] for step in again["results"]["steps"]] == ["none", "streams"]
    assert all(step["encoder_ms"] > 0 for step in again["results"]["steps"])
    (record,) = run("evaluate", "--model", "nano-outlier", "--plan", plan, *DATA).json
    assert record["settings"]["repairs"] == ["streams"]
    given = ("--model", "nano-outlier", "--calibration", "scenes:2:1", "--placement", "openvino", *DATA)
    by_scheme, plain = (
        run("evaluate", *given, "--scheme", scheme, *more).json[0] for more in ((), ("--repair", "none"))
    )
    assert by_scheme["scheme"] == "int8 repaired"
    assert by_scheme["settings"]["repairs"] == ["streams"]
    assert "repairs" not in plain["settings"]
    assert "streams" in run("schemes", scheme).out
    assert "repair" in run("results", "--kind", "repair", "--store", store).out


def test_a_plan_for_a_gpu_is_repaired_without_it(run, tmp_path):
    line = ("repair", "nano", "--calibration", "scenes:8:1", "--engine", "tensorrt", "--try", "streams")
    ran = run(*line, "--goal", "100", "--out", tmp_path / "plan")
    assert "--engine tensorrt --plan" in ran.out
    assert (tmp_path / "plan").is_dir()


def test_a_search_says_what_there_was_no_time_for(run):
    ran = run("repair", "nano", "--calibration", "scenes:8:1", "--try", "streams,bias", "--minutes", "0", "--no-store")
    assert "stopped after --minutes 0: not tried: streams, bias\n" in ran.out
    ran = run("repair", "nano", "--calibration", "scenes:8:1", "--try", "streams", "--goal", "99", "--no-store")
    assert "stopped after" not in ran.out


def test_a_search_for_repairs_that_cannot_be(run, tmp_path):
    few = ("repair", "nano", "--calibration", "scenes:4:1")
    run(*few).complains(1, "a search for repairs needs at least 8 images", "got 4")
    run(*few, "--allow-float", "1", "--allow-w8a16", "1").complains(2, "--allow-float and --allow-w8a16 exclude each")
    run(*few, "--goal", "-1").complains(2, "goal must be a number from 0 on, got -1.0")
    run(*few, "--scheme", "fp32").complains(2, "a repair needs quantized activations", "fp32")
    (tmp_path / "plan").mkdir()
    (tmp_path / "plan" / "mine.txt").write_text("mine")
    run(*few, "--out", tmp_path / "plan").complains(1, "it holds other files")
