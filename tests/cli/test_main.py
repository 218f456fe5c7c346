import errno
import importlib
import os
import shlex
import subprocess
import sys

import click
import pytest

from quantsam.cli.main import COMMANDS, main
from quantsam.errors import QuantsamError

from ..conftest import PATIENCE_S


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS), ["data", "scenes"]])
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_of_every_command(run, command, option):
    ran = run(*command, option)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("Usage: quantsam")
    assert "--help" in ran.out


def test_the_list_of_commands_says_what_each_is(run):
    out = " ".join(run("--help").out.split())
    for name, description in COMMANDS.items():
        assert f"{name} {description}"[:40] in out


def test_version(run):
    assert run("--version").out == "quantsam, version 0.1.0\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command):
    found = importlib.import_module(f"quantsam.cli.{command}").command
    options = [p for one in (found, *getattr(found, "commands", {}).values()) for p in one.params]
    assert [p.name for p in options if isinstance(p, click.Option) and not p.hidden and not p.help] == []


def test_no_command_shows_the_help_and_fails(run):
    ran = run()
    assert (ran.code, ran.out) == (2, "")
    assert "Commands:" in ran.err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evalute", ["no command 'evalute'", "did you mean 'evaluate'?"]),
        ("xyzzy", ["no command 'xyzzy'", "known are: activations, agree, app, audit, cache, calibrate, data, demo"]),
        ("data scnes x", ["'scnes'", "'scenes'"]),
        ("evaluate --shceme int8", ["--shceme", "--scheme"]),
        ("evaluate --scheme imt8", ["got 'imt8'", "did you mean 'int8'?"]),
        ("evaluate --model nanu", ["got 'nanu'", "did you mean 'nano'?"]),
        ("evaluate --prompts clik", ["got 'clik'", "did you mean 'click'?"]),
        ("evaluate --placement tesis --scheme int8 --calibration scenes:1", ["'tesis'", "did you mean 'thesis'?"]),
        ("evaluate --images 0", ["--images", "0"]),
        ("evaluate --data scenes:2 --images 3", ["at most 2", "got 3"]),
        ("evaluate --data scenes:x", ["got 'scenes:x'", "write e.g. scenes:300"]),
        ("evaluate --device quantum", ["'quantum'", "use 'cpu'"]),
        ("evaluate --model l0 --scheme int8", ["calibrating l0 needs images", "--calibration"]),
        ("evaluate --scheme int8@stage3:4:9 --calibration scenes:1", ["stage3:4:9", "quantsam layers nano"]),
        ("evaluate --scheme int8@stag3", ["'stag3'", "did you mean"]),
        ("evaluate --plan x --scheme int8", ["--plan", "--scheme", "exclude"]),
        ("evaluate --plan x --no-weights", ["--plan", "--no-weights", "exclude"]),
        ("evaluate --plan x --calibration-images 3", ["--plan", "--calibration-images", "exclude"]),
        ("calibrate", ["Missing option '--out'"]),
        ("layers", ["Missing argument 'MODEL'"]),
        ("layers nan", ["got 'nan'", "did you mean 'nano'?"]),
        ("layers nano --scheme mix-dws", ["'mix-dws'", "did you mean 'mix-dwsc'"]),
        ("schemes mix-dws", ["'mix-dws'", "did you mean 'mix-dwsc'"]),
        ("results --compare a", ["--compare", "2 arguments"]),
        ("results --compare a b", ["no record", "'a'"]),
        ("results --export x.xls", [".csv, .parquet, .md, .json", "'x.xls'"]),
        ("data scenes x --count 0", ["`count`", "got 0"]),
        ("data scenes x --size 50", ["`size`", "multiple of 8", "the nearest is 48"]),
        ("data scenes x --split ../y", ["`split`", "'../y'"]),
        ("demo --scenes 0", ["--scenes", "0"]),
    ],
)
def test_a_wrong_line_is_one_line_and_exit_code_2(run, line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(*shlex.split(line)).complains(2, *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evaluate --data nowhere", ["'nowhere'", "scenes:300"]),
        ("evaluate --weights nowhere.pt", ["'nowhere.pt'", "check the path"]),
        ("evaluate --weights .", ["got the folder"]),
        ("evaluate --plan nowhere --data scenes:1", ["'nowhere'", "quantsam calibrate"]),
        ("calibrate --out x --calibration nowhere", ["'nowhere'"]),
    ],
)
def test_missing_data_is_one_line_and_exit_code_1(run, line, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(*shlex.split(line)).complains(1, *words)
    assert list(tmp_path.iterdir()) == []


def test_weights_that_cannot_be_had(start, tmp_path):
    process = start("evaluate", "--model", "l0", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path / "hub"))
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out) == (1, "")
    assert err.startswith("quantsam: weights of 'l0'")
    assert err.count("\n") == 1
    assert "--weights" in err


@pytest.mark.parametrize("line", ["--debug schemes int88", "schemes --debug int88", "schemes int88 --debug"])
def test_debug_adds_the_traceback_wherever_it_stands(run, line):
    ran = run(*shlex.split(line))
    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("Traceback")
    assert ran.err.splitlines()[-1].startswith("quantsam: scheme must be")


def break_command(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("quantsam.schemes.load.scheme_names", fail)


def test_a_message_of_several_lines_becomes_one(run, monkeypatch):
    break_command(monkeypatch, QuantsamError("first\n  second"))
    ran = run("schemes")
    ran.complains(1)
    assert ran.err == "quantsam: first second\n"


def test_ctrl_c_is_exit_code_130(run, monkeypatch):
    break_command(monkeypatch, KeyboardInterrupt())
    run("schemes").complains(130, "interrupted")


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch):
    break_command(monkeypatch, ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        main(["schemes"])


def test_an_unexpected_error_of_the_system_is_not_hidden(monkeypatch):
    break_command(monkeypatch, OSError(errno.EIO, "Input/output error"))
    with pytest.raises(OSError, match="Input/output"):
        main(["schemes"])


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="only Linux has /dev/full")  # noqa: PTH110
@pytest.mark.parametrize("line", ["schemes", "schemes --json"])  # printed by rich, by click
def test_a_full_disk_behind_standard_output(line):
    code = "from quantsam.cli.main import run; run()"
    with open("/dev/full", "w") as full:  # noqa: PTH123
        done = subprocess.run(
            [sys.executable, "-c", code, *line.split()], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (1, "quantsam: cannot print: No space left on device\n")


def test_a_reader_that_leaves_early_is_no_error(start):
    process = start("schemes", "int8")
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.wait(timeout=PATIENCE_S)
    process.stderr.close()


def test_help_loads_no_torch():
    code = (
        "import sys; from quantsam.cli.main import main; main(['--help']); main(['evaluate', '--help'])\n"
        "heavy = {'torch', 'numba', 'scipy', 'onnxruntime', 'openvino', 'tensorrt'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
