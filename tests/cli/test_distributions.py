"""The command `quantsam distributions`."""

import json

import numpy as np
import pytest

from quantsam.results.store import ResultStore

ONE = ("--calibration", "scenes:1:1")


def test_it_ranks_outlier_channels_and_keeps_a_record(run, own_store, tmp_path):
    out = tmp_path / "h.npz"
    ran = run("distributions", "--model", "nano-outlier", *ONE, "--top", "5", "--out", out)
    assert (ran.code, ran.err) == (0, "")
    assert "the calibration images themselves" in ran.out
    assert f"{out}: the histogram of every channel" in ran.out
    (record,) = ResultStore(own_store).records(kind="distributions")
    sites = record.sites
    assert record.figures["sites"] == len(sites) > 100
    worst = max(sites, key=lambda site: site.outlier_ratio or 0)
    assert worst.outlier_ratio == record.figures["outlier_ratio"] > 20
    row = next(line for line in ran.out.splitlines() if worst.site in line)
    assert f"{worst.outliers[0].index} ({worst.outlier_ratio:.1f}x)" in row
    assert "int8" in row
    with np.load(out, allow_pickle=False) as file:
        assert {name.rpartition(".")[0] for name in file.files} == {site.site for site in sites}
        assert all(file[f"{site.site}.counts"].sum() == site.values for site in sites)


def test_what_the_store_holds_is_not_measured_again(run, plan, own_store, monkeypatch):
    line = ("distributions", "--plan", plan, "--images", "scenes:1:1", "--sort", "order")
    assert "the calibration images themselves" in run(*line).out
    (record,) = ResultStore(own_store).records()
    monkeypatch.setattr("quantsam.diagnostics.observed.encoder_input", refuse)
    again = run(*line, "--json", "--top", "7").json
    assert again["id"] == record.id
    assert [site["site"] for site in again["results"]["sites"]] == [s.site for s in record.sites[:7]]


def test_a_plan_and_other_pictures(run, plan):
    line = ("distributions", "--plan", plan, "--data", "scenes:2:5", "--images", "1", "--no-store")
    table = run(*line, "--site", "stage3:*").out
    assert "calibrated on scenes-1-seed1" in table
    assert "on the 1 images of scenes-2-seed5" in table
    found = run(*line, "--json", "--site", "stage3:*", "--sort", "clipped", "--top", "9").json
    sites = found["results"]["sites"]
    assert len(sites) == 9
    assert all(site["site"].startswith("stage3:") for site in sites)
    shares = [site["clipped"] for site in sites]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0
    noise = [s["sqnr_db"] for s in run(*line, "--json", "--sort", "sqnr").json["results"]["sites"]]
    assert noise == sorted(noise)


def test_a_model_in_float(run):
    found = run("distributions", "--scheme", "fp32", *ONE, "--no-store", "--json").json
    assert found["figures"]["clipped_percent"] is None
    assert {site["format"] for site in found["results"]["sites"]} == {None}
    ratios = [site["outlier_ratio"] for site in found["results"]["sites"]]
    assert ratios == sorted(ratios, reverse=True)


def refuse(*args, **kwargs):
    pytest.fail("this is to be said before the work")


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["--model", "nanno"], 2, ["model must be one of", "'nano'"]),
        (["--model", "l0"], 2, ["--calibration"]),
        (["--model", "l0", "--plan", "{}"], 2, ["--data", "l0"]),
        (["--scheme", "imt8"], 2, ["'imt8'", "int8"]),
        (["--plan", "{}", "--scheme", "int8"], 2, ["--plan and --scheme exclude each other"]),
        (["--plan", "{}", "--calibration", "scenes:1"], 2, ["--plan and --calibration exclude each other"]),
        (["--data", "sceens:2"], 1, ["'sceens:2'", "scenes"]),
        (["--data", "scenes:2", "--images", "3"], 2, ["at most 2", "got 3"]),
        (["--sort", "outlier"], 2, ["outlier", "clipped"]),
        (["--out", "{}/h.npy"], 2, ["--out must end in .npz", "h.npy"]),
        (["--out", "{}/absent/h.npz"], 1, ["cannot write", "there is no folder"]),
        (["--store", "{}/file/r.sqlite"], 1, ["is a file, not a folder"]),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(run, tmp_path, left, monkeypatch, line, code, words):
    (tmp_path / "file").touch()
    monkeypatch.setattr("quantsam.runs.run.load_model", refuse)
    given = () if "--plan" in line or "l0" in line else ONE
    run("distributions", *given, *(part.format(tmp_path) for part in line)).complains(code, *words)
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [("stage3:4:9", ["'stage3:4:9'", "sites of nano", "did you mean"]), ("zzz*", ["'zzz*'", "`quantsam layers nano`"])],
)
def test_a_site_that_is_not_there_is_said_before_the_work(run, monkeypatch, tmp_path, left, pattern, words):
    monkeypatch.setattr("quantsam.plans.observation.encoder_input", refuse)
    run("distributions", *ONE, "--site", pattern, "--out", tmp_path / "h.npz").complains(2, "--site", *words)
    assert left(tmp_path) == []


def test_a_plan_that_is_not_calibrated_or_of_another_model(run, plan, tmp_path):
    from quantsam.models.zoo import load_model
    from quantsam.plans.make import make_plan
    from quantsam.plans.storage import save_plan

    save_plan(make_plan(load_model("nano"), "int8"), tmp_path / "plan")
    line = ("distributions", "--no-store", "--plan")
    run(*line, tmp_path / "plan").complains(1, "plan must be calibrated", "quantsam.calibrate")
    run(*line, plan, "--model", "nano-outlier").complains(1, "plan was made for model 'nano'")
    run(*line, tmp_path / "absent").complains(1, "plan must be a folder with plan.json")


def test_stopped_while_measuring_nothing_is_left(run, own_store, tmp_path, left, monkeypatch):
    def stop(*args, **kwargs):
        raise KeyboardInterrupt

    (tmp_path / "h.npz").write_text("old")
    monkeypatch.setattr("quantsam.diagnostics.observed.encoder_input", stop)
    run("distributions", *ONE, "--out", tmp_path / "h.npz").complains(130, "interrupted")
    assert left(tmp_path) == ["h.npz"]
    assert (tmp_path / "h.npz").read_text() == "old"
    assert not own_store.exists()


def test_the_record_is_json_without_nan(run):
    ran = run("distributions", *ONE, "--no-store", "--json", "--top", "1000")
    record = json.loads(ran.out, parse_constant=lambda name: pytest.fail(name))
    assert record["figures"]["sites"] == len(record["results"]["sites"])
