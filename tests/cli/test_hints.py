"""Hints that are printed can be pasted into a shell, and mean the same store; `~` is the home wherever it stands."""

import re
import shlex

import pytest

from quantsam.results.store import ResultStore


def pasted(run, text, start):
    """Run the first command in backquotes that begins so, split as a shell does."""
    (line, *_) = re.findall(rf"`(quantsam {start}[^`]*)`", text)
    return run(*shlex.split(line)[1:])


def test_the_store_that_was_named_is_named_in_hints(run, tmp_path):
    store = tmp_path / "my results; rm $HOME.sqlite"
    ran = run("evaluate", "--data", "scenes:1", "--gallery", 0, "--store", store)
    assert "1 result" in pasted(run, ran.out, "results").out
    assert f"--store {shlex.quote(str(store))}" in ran.out
    assert "`quantsam results`" in run("evaluate", "--data", "scenes:1", "--gallery", 0).out  # the usual one


def test_a_sweep_s_hint_names_its_store(run, tmp_path):
    store = tmp_path / "a b.sqlite"
    ran = run("sweep", "--set", "data=scenes:1", "--set", "scheme=fp32", "--store", store, "--workers", 1)
    assert "1 result" in pasted(run, ran.out, "results").out


def test_a_tilde_is_the_home_in_options_arguments_and_sweeps(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert run("data", "scenes", "~/toy", "--count", 1, "--size", 64).code == 0
    ran = run("evaluate", "--data=~/toy", "--gallery", 0, "--store=~/r.sqlite")
    assert ran.code == 0
    assert len(ResultStore(tmp_path / "r.sqlite").records()) == 1
    assert run("evaluate", "--data", "~/toy", "--gallery", 0, "--store", "~/r.sqlite").code == 0
    sweep = tmp_path / "s.toml"
    sweep.write_text('[common]\ndata = "~/toy"\n')
    assert "1 of 1 runs done" in run("sweep", "~/s.toml", "--store", "~/r.sqlite", "--workers", 1).out


def test_python_s_words_are_not_the_command_line_s(run, tmp_path):
    run("search", "nano", "--max-drop", -1).complains(2, "--max-drop must be at least 0")
    run("search", "nano", "--held-out", -1).complains(2, "--held-out >= 0")
    run("evaluate", "--data", "scenes:1", "--image-root", tmp_path).complains(2, "--annotations nor --image-root")
    lvis = tmp_path / "lvis"
    (lvis / "annotations").mkdir(parents=True)
    (lvis / "annotations" / "lvis_v1_val.json").write_text('{"images": [], "annotations": [], "categories": []}')
    said = run("evaluate", "--data", lvis).err
    assert "`" not in said.replace("`quantsam", "").replace("`images`", "")


@pytest.mark.parametrize("command", ["evaluate", "sensitivity", "search"])
def test_threads_can_be_chosen(run, command, monkeypatch):
    import torch

    seen = []
    monkeypatch.setattr(torch, "set_num_threads", seen.append)
    words = () if command == "evaluate" else ("nano",)
    run(command, *words, "--threads", 3, "--data", "nothing-here").complains(1, "nothing-here")
    assert seen == [3, torch.get_num_threads()]  # and given back


def test_a_search_without_out_says_how_its_schemes_are_written(run, tiny_nano):
    line = ("search", "nano", "--data", "scenes:6", "--images", 2, "--first", 2, "--held-out", 0, "--trials", 0)
    line = (*line, "--points", 2, "--formats", "float,int8", "--calibration", "scenes:1:1", "--threads", 1)
    ran = run(*line)
    assert ran.code == 0, ran.err
    given = " ".join(map(str, line))
    assert f"no scheme was written: `quantsam {given} --out nano-size` does it" in ran.out


def test_a_report_is_html_and_never_replaces_its_store(run, tmp_path):
    run("evaluate", "--data", "scenes:1", "--gallery", 0, "--store", tmp_path / "r.html")
    before = (tmp_path / "r.html").read_bytes()
    run("report", "--store", tmp_path / "r.html", "--out", tmp_path / "r.html").complains(2, "--out would replace")
    assert (tmp_path / "r.html").read_bytes() == before
    run("report", "--out", tmp_path / "r.pdf").complains(2, "--out must end in .html")
