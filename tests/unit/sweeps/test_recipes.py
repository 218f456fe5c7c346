"""Every recipe is a sweep that can run, where its files are."""

from pathlib import Path

import pytest

from quantsam.sweeps.opened import check_point
from quantsam.sweeps.sweep import read_sweep

ROOT = Path(__file__).parents[3]
RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_can_run(path, tmp_path, monkeypatch):
    for name in (
        "coco_vitdet.json",
        "lvis_vitdet.json",
        *(f"weights/{m}.pt" for m in ("l0", "l1", "l2", "xl0", "xl1")),
    ):
        file = tmp_path / name
        file.parent.mkdir(exist_ok=True)
        file.touch()
    monkeypatch.chdir(tmp_path)
    sweep = read_sweep(path)
    header = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert f"quantsam sweep {path.relative_to(ROOT)}" in header[1]
    assert any("Needs" in line for line in header)
    assert any("Expected" in line for line in header)
    for point in sweep.points:
        check_point(point)


def test_the_thesis_is_there_whole():
    assert {path.stem for path in RECIPES} >= {"coco-boxes", "coco-detector", "lvis-detector", "layers", "nano"}


def test_containers_install_what_exists():
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in ("Dockerfile", "Dockerfile.cuda"):
        text = (ROOT / name).read_text()
        copied = [word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[1:-1]]
        assert all((ROOT / word).exists() for word in copied)
        (wanted,) = [part.split("]")[0] for part in text.split("/quantsam[")[1:]]
        assert set(wanted.split(",")) <= extras.keys()
