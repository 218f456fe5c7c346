"""Tables fit the terminal."""

import re

import pytest
from rich.console import Console

from quantsam.cli import output
from quantsam.cli.output import print_table, progress

EVALUATION = ["scheme", ">mIoU", ">± SE", ">small", ">medium", ">large", ">vs fp32", ">saved MiB", ">encoder MiB"]
ROW = ["mix-mbc-neck", "80.20", "0.57", "75.10", "81.22", "83.01", "-25.49 ± 0.58", "190.00", "28.11"]


@pytest.mark.parametrize("width", [160, 100, 80, 60, 40, 5, 0])
def test_no_line_is_wider_than_the_terminal_and_no_number_is_broken(capsys, monkeypatch, width):
    monkeypatch.setattr(Console, "is_terminal", True)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    print_table("nano on scenes", EVALUATION, [ROW], spare=(">saved MiB", ">± SE", ">small", ">medium", ">large"))
    out = re.sub("\x1b\\[[0-9;]*m", "", capsys.readouterr().out)  # bold
    assert max(map(len, out.splitlines())) <= max(width, 60)
    for cell in ("80.20", "-25.49 ± 0.58", "28.11"):
        assert cell in out
    assert ("left out for want of width" in out) is (width < 80)


def test_a_title_over_every_column(run):
    ran = run("evaluate", "--data", "scenes:1", "--gallery", 0, "--no-store")
    heads = ran.out.splitlines()[1].split("┃")
    assert all(head.strip() for head in heads), heads
    both = run("evaluate", "--data", "scenes:1", "--scheme", "fp32", "--scheme", "fp32", "--gallery", 0, "--no-store")
    assert "vs fp32" in both.out


def test_long_work_tells_a_log_how_far_it_is(capsys, monkeypatch):
    monkeypatch.setattr(output, "LINE_EVERY_S", 0.0)
    assert list(progress("scoring")(range(3), 3)) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(",")[0] for line in err.splitlines()] == ["scoring: 1 of 3", "scoring: 2 of 3"]
    monkeypatch.setattr(output, "LINE_EVERY_S", 30.0)
    assert list(progress("scoring")(range(3), 3)) == [0, 1, 2]
    assert capsys.readouterr().err == ""
