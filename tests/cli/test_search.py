"""The command `quantsam search`."""

import json

SMALL = ("--data", "scenes:6:9", "--calibration", "scenes:2:1", "--first", "2", "--images", "3", "--held-out", "2")


def test_found_schemes_can_be_used(run, tmp_path, tiny_nano):
    found = tmp_path / "found"
    done = run(
        "search", "nano", *SMALL, "--formats", "float,int8,w4a8", "--points", "4", "--trials", "0", "--budget", "35%",
        "--out", found, "--store", tmp_path / "r.sqlite",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "chosen: " in done.out
    index = json.loads((found / "front.json").read_text())
    schemes = sorted(found.glob("*.toml"))
    assert schemes
    assert {entry["name"] for entry in index["results"]["entries"]} >= {path.stem for path in schemes}
    scored = run("layers", "nano", "--scheme", schemes[0], "--json")
    assert scored.code == 0, scored.err
    listed = run("results", "--store", tmp_path / "r.sqlite", "--kind", "search", "--json")
    assert len(listed.json) == 1


def test_bad_input_is_one_line(run, tmp_path):
    run("search", "nano", "--no-store", *SMALL, "--budget", "1kB").complains(2, "budget must be within", "bytes")
    run("search", "nano", "--no-store", "--budget", "lots").complains(2, "must look like", "'lots'")
    run("search", "nano", "--no-store", "--budget", "1MB", "--max-drop", "1").complains(2, "exclude each other")
    run("search", "nano", "--no-store", "--cost", "latency").complains(2, "needs engine")
    run("search", "nano", "--no-store", "--cost", "sise").complains(2, "cost must be one of", "'size'")
    run("search", "nano", "--no-store", "--formats", "int8").complains(2, "at least two different formats")
    run("search", "nano", "--no-store", "--formats", "int8,imt4").complains(2, "imt4")
    engine = ("--engine", "openvino", "--formats", "float,fp8_e4m3")
    run("search", "nano", "--no-store", *SMALL, *engine).complains(1, "openvino", "fp8_e4m3")
    other = tmp_path / "other"
    other.mkdir()
    (other / "front.json").write_text("{}")
    (other / "notes.txt").write_text("mine")
    run("search", "nano", "--no-store", "--out", other).complains(
        1, "also holds 'notes.txt'", "choose an absent or empty one"
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    run("search", "nano", "--no-store", "--out", tmp_path / "mine").complains(1, "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
