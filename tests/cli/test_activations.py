"""The command `quantsam activations`."""

import numpy as np
import pytest
from PIL import Image

import quantsam as qs

ONE = ("--calibration", "scenes:1:1")


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "scene.png"
    Image.fromarray(qs.open_dataset("scenes:1:3").image(1)).save(path)
    return path


def test_sites_are_ranked_and_written(run, picture, tmp_path):
    out = tmp_path / "a.npz"
    line = ("activations", picture, *ONE, "--site", "stage3:*")
    ran = run(*line, "--out", out)
    assert "scene.png, nano, int8, thesis: 20 of " in ran.out
    assert f"written to {out}" in ran.out
    rows = run(*line, "--json", "--top", "999").json
    ratios = [row["sqnr_db"] for row in rows]
    assert ratios == sorted(ratios)
    assert all(row["site"].startswith("stage3:") for row in rows)
    with np.load(out, allow_pickle=False) as file:
        assert {name.rpartition(".")[0] for name in file.files} == {row["site"] for row in rows}
    run(*line, "--out", tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.width == 700


def test_what_cannot_be(run, picture, tmp_path):
    run("activations", picture, *ONE, "--site", "stage9*").complains(2, "--site must match one of", "'stage9*'")
    run("activations", picture, *ONE, "--site", "stage3:*/weight").complains(2, "--site must match activations")
    run("activations", picture, *ONE, "--out", tmp_path / "a.txt").complains(2, "--out must end in .npz, .png")
    run("activations", picture, *ONE, "--out", picture).complains(2, "--out would replace")
    run("activations", tmp_path / "none.png", *ONE).complains(1, "none.png")
