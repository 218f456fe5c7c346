"""The command `quantsam sensitivity`."""

import re
import shlex


def test_it_ranks_and_compares_with_the_exact_study(run, tmp_path):
    common = ("sensitivity", "nano", "--by", "stage", "--format", "int4", "--data", "scenes:3", "--calibration")
    common = (*common, "scenes:2:1", "--store", tmp_path / "r.sqlite")
    exact = run(*common, "--method", "exact")
    assert exact.code == 0, exact.err
    assert "mask loss" in exact.out
    assert "stage3" in exact.out
    assert "what may help: `quantsam repair nano --calibration scenes:2:1` finds repairs" in exact.out
    sweep = re.search(r"`quantsam (sweep .*?)` compares observers", exact.out)[1]
    listed = run(*shlex.split(sweep), "--dry-run", "--store", tmp_path / "other.sqlite")
    assert (listed.code, listed.out.splitlines()[0]) == (0, "command line: 5 runs")
    race = run(*common, "--first", "2")
    assert "against the exact study" in race.out
    assert "of its 5 worst rows found" in race.out
    listed = run("results", "--store", tmp_path / "r.sqlite", "--kind", "sensitivity", "--json")
    assert len(listed.json) == 2


def test_bad_input_is_one_line(run):
    run("sensitivity", "nano", "--no-store", "--by", "layr").complains(2, "by must be one of", "'layer'")
    run("sensitivity", "nano", "--no-store", "--format", "imt8").complains(2, "imt8")
    run("sensitivity", "nanno", "--no-store").complains(2, "model must be one of", "'nano'")
    run("sensitivity", "l0", "--no-store").complains(2, "--calibration")
