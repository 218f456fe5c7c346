"""`quantsam app` from its start to Ctrl-C."""

import importlib.util
import json
import re
import signal
import socket
import urllib.request

import pytest

from ..conftest import PATIENCE_S


def address(process):
    line = process.stdout.readline()
    assert re.fullmatch(r"quantsam app at http://127\.0\.0\.1:\d+/ \(Ctrl-C ends it\)\n", line), line
    return line.split()[3]


def test_it_listens_says_where_and_ends_on_ctrl_c(start):
    process = start("app", "--port", "0", "--model", "nano", "--engine", "pytorch", "--max-mb", "1.5")
    with urllib.request.urlopen(address(process) + "api/options", timeout=PATIENCE_S) as answer:
        options = json.load(answer)
    assert [model["name"] for model in options["models"]] == ["nano"]
    assert [scheme["name"] for scheme in options["schemes"]] == ["int8", "mix-dwsc", "mix-mbc-neck"]
    assert [engine["name"] for engine in options["engines"]] == ["pytorch"]
    assert options["upload_bytes"] == 1_500_000
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, "", "stopped\n")


def test_ctrl_c_ends_an_answer_under_way(start):
    process = start("app", "--port", "0", "--model", "nano", "--engine", "pytorch", "--calibration", "scenes:5000")
    url = address(process)
    with urllib.request.urlopen(
        urllib.request.Request(url + "api/examples/1", method="POST"), timeout=PATIENCE_S
    ) as answer:
        token = json.load(answer)["picture"]
    asked = {"picture": token, "model": "nano", "engine": "pytorch", "schemes": ["int8"], "boxes": [[9, 9, 99, 99]]}
    body = json.dumps(asked).encode()
    request = urllib.request.Request(url + "api/masks", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=PATIENCE_S) as lines:
        while b"calibrating" not in lines.readline():
            pass
        process.send_signal(signal.SIGINT)
        *_, last = lines
    assert json.loads(last) == {"event": "error", "error": "the server is stopping"}
    _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "stopped\n")


def test_others_may_come_only_with_a_warning(start):
    process = start("app", "--port", "0", "--model", "nano", "--scheme", "int8", "--host", "0.0.0.0")
    line = process.stdout.readline()
    assert line.startswith("quantsam app at http://localhost:")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_S)
    warning, stopped = err.splitlines()
    assert warning.startswith("quantsam: warning: on 0.0.0.0 everyone")
    assert stopped == "stopped"


def test_a_port_in_use(run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ran = run("app", "--port", port)
        ran.complains(2, f"port {port}", "in use", "another --port")
        assert "--host" not in ran.err


def test_a_host_that_is_not_here(run):
    run("app", "--port", 0, "--host", "192.0.2.1").complains(2, "192.0.2.1", "another --host")


@pytest.mark.parametrize("host", ["a" * 70, "..", "ü" * 70, "no.such.host.invalid", ""])
def test_a_host_that_is_no_name(run, host):
    ran = run("app", "--port", 0, "--host", host)
    ran.complains(2, f"cannot listen on {host}", "another --host")
    assert "--port" not in ran.err


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_without_the_extra(run, monkeypatch, package):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name == package else found(name, *more))
    run("app").complains(2, package, "pip install 'quantsam[app]'")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "nan"], ["model must be one of", "'nano'"]),
        (["--scheme", "int88"], ["scheme must be", "int88"]),
        (["--scheme", "int8@stage3:40", "--model", "nano"], ["must match a layer"]),
        (["--engine", "onnx"], ["engine must be one of"]),
        (["--model", "l0"], ["calibrating l0 needs images"]),
        (["--weights", "a.pt"], ["--weights", "one --model"]),
        (["--max-mb", "0"], ["--max-mb"]),
        (["--max-pixels", "0"], ["--max-pixels"]),
        (["--port", "70000"], ["--port"]),
    ],
)
def test_what_it_refuses_at_the_start(run, options, words):
    run("app", "--port", "0", *options).complains(2, *words)


def test_two_schemes_of_one_name(run, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "own.toml").write_text('[[rules]]\nweight = "int8"\n')
    files = [tmp_path / folder / "own.toml" for folder in ("a", "b")]
    run("app", "--port", 0, "--scheme", files[0], "--scheme", files[1]).complains(2, "two schemes", "'own'")


def test_a_quantizing_scheme_by_the_name_of_the_float_model(run, tmp_path):
    (tmp_path / "fp32.toml").write_text('[[rules]]\nweight = "int8"\n')
    run("app", "--port", 0, "--scheme", tmp_path / "fp32.toml").complains(2, "fp32.toml", "name of the float model")


def test_a_missing_checkpoint(run, tmp_path):
    run("app", "--port", 0, "--model", "nano", "--weights", tmp_path / "absent.pt").complains(1, "absent.pt")
