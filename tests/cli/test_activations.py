"""The command `quantsam activations`."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

import quantsam as qs
from quantsam.diagnostics.activations import SiteActivations
from quantsam.models.variants import get_variant
from quantsam.results.store import ResultStore

ONE = ("--calibration", "scenes:1:1")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(qs.open_dataset("scenes:1:3").image(1)).save(path)
    return path


def refuse(*args, **kwargs):
    pytest.fail("this is to be said before the work")


def test_sites_are_ranked_and_written(run, plan, picture, tmp_path):
    out = tmp_path / "a.npz"
    line = ("activations", picture, "--plan", plan, "--site", "stage3:*")
    ran = run(*line, "--out", out)
    assert "scene.png, nano, int8, thesis: 20 of " in ran.out
    assert f"written to {out}" in ran.out
    rows = run(*line, "--json", "--top", "999").json["results"]["sites"]
    ratios = [row["sqnr_db"] for row in rows]
    assert ratios == sorted(ratios)
    assert all(row["site"].startswith("stage3:") for row in rows)
    with np.load(out, allow_pickle=False) as file:
        assert {name.rpartition(".")[0] for name in file.files} == {row["site"] for row in rows}
    run(*line, "--out", tmp_path / "a.png", "--drawn", "2", "--channels", "3")
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (700, 12 + 2 * 3 * 194)


def test_a_record_is_kept_found_again_printed_and_exported(run, plan, picture, own_store, tmp_path, monkeypatch):
    line = ("activations", picture, "--plan", plan, "--drawn", "2", "--channels", "3")
    ran = run(*line)
    assert f"kept in {own_store}: `quantsam results --kind activations` lists it, `quantsam report` draws it" in ran.out
    (record,) = ResultStore(own_store).records(kind="activations")
    assert (record.dataset, record.scheme, record.settings["site"]) == ("scene.png", "int8", None)
    assert [len(site.channels) for site in record.sites if site.channels] == [3, 3]
    monkeypatch.setattr("quantsam.diagnostics.compared.compare_activations", refuse)
    again = run(*line, "--top", "7", "--json").json
    assert again["id"] == record.id
    assert [site["site"] for site in again["results"]["sites"]] == [site.site for site in record.worst_first[:7]]
    assert "channels" not in again["results"]["sites"][0]
    listed = run("results", "--kind", "activations").out
    assert "scene.png" in listed
    shown = run("results", record.id[:8]).out
    assert f"{len(record.sites)} rows" in shown
    worst = record.worst_first[0]
    row = next(text for text in shown.splitlines() if f" {worst.site} " in text)
    assert f"{worst.sqnr_db:.2f}" in row
    assert "iVBOR" not in shown  # how a PNG begins
    for suffix in ("csv", "json"):
        assert run("results", record.id[:8], "--export", tmp_path / f"r.{suffix}").code == 0
    with (tmp_path / "r.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["site"] for row in rows] == [site.site for site in record.sites]
    assert [float(row["sqnr_db"]) for row in rows] == [site.sqnr_db for site in record.sites]
    side = get_variant("nano").input_size
    assert json.loads(rows[0]["shape"]) == [3, side, side]
    rows = json.loads((tmp_path / "r.json").read_text())
    assert [(row["site"], row["shape"]) for row in rows] == [(site.site, list(site.shape)) for site in record.sites]


def test_records_of_other_sites_are_told_apart_and_the_report_draws_both(run, plan, picture, own_store, tmp_path):
    line = ("activations", picture, "--plan", plan, "--drawn", "1", "--channels", "2", "--site")
    for pattern in ("stage3:0:*", "neck:*"):
        assert run(*line, pattern).code == 0
    assert [record.settings["site"] for record in ResultStore(own_store).records()] == ["stage3:0:*", "neck:*"]
    assert "neck:*" in run("results").out
    assert run("report", "--out", tmp_path / "r.html").code == 0
    page = (tmp_path / "r.html").read_text("utf-8")
    for pattern in ("stage3:0:*", "neck:*"):
        assert f"<summary>nano, int8, thesis, scene.png: sites {pattern}</summary>" in page
    assert page.count('<figure class="channel">') == 4


def test_nothing_is_kept_where_that_was_asked_for(run, plan, picture, own_store):
    ran = run("activations", picture, "--plan", plan, "--no-store", "--site", "neck:*")
    assert ran.code == 0
    assert "kept in" not in ran.out
    assert not own_store.exists()


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (["{}/none.png"], 1, ["none.png"]),
        (["{}/text.png"], 1, ["text.png", "is not an image"]),
        (["{}/scene.png", "--out", "{}/a.txt"], 2, ["--out must end in .npz, .png"]),
        (["{}/scene.png", "--out", "{}/scene.png"], 2, ["--out would replace"]),
        (["{}/scene.png", "--store", "{}/text.png/r.sqlite"], 1, ["is a file, not a folder"]),
        (["{}/scene.png", "--drawn", "25"], 2, ["drawn", "25"]),
        (["{}/scene.png", "--channels", "0"], 2, ["channels", "0"]),
        (["{}/scene.png", "--scheme", "imt8"], 2, ["'imt8'", "int8"]),
    ],
)
def test_what_is_wrong_is_said_before_the_model_is_loaded(run, picture, tmp_path, left, monkeypatch, line, code, words):
    (tmp_path / "text.png").write_text("a text")
    monkeypatch.setattr("quantsam.runs.run.load_model", refuse)
    run("activations", *ONE, *(part.format(tmp_path) for part in line)).complains(code, *words)
    assert left(tmp_path) == ["scene.png", "text.png"]


def test_a_site_that_is_not_there_is_said_before_the_work(run, picture, monkeypatch):
    monkeypatch.setattr("quantsam.plans.observation.encoder_input", refuse)
    run("activations", picture, *ONE, "--site", "stage9*").complains(2, "--site must match one of", "'stage9*'")
    run("activations", picture, *ONE, "--site", "stage3:*/weight").complains(2, "--site must match activations")


def test_values_that_are_not_finite_are_one_line(run, plan, picture, own_store, monkeypatch):
    endless = torch.full((2, 3), torch.inf)
    found = [SiteActivations("stage3:0:0/input", "mbc_expand", "int8", torch.zeros(2, 3), endless)]
    monkeypatch.setattr("quantsam.diagnostics.compared.compare_activations", lambda *args: found)
    ran = run("activations", picture, "--plan", plan, "--site", "stage3:0:0/input")
    ran.complains(1, "values of stage3:0:0/input must be finite, got inf to inf", "check the weights")
    assert not own_store.exists()
