"""`--engine web` on the command line."""

import pytest


def test_the_package_may_come_from_a_file(run, tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"something else")
    export = ("export", "--calibration", "scenes:1:1", "--out", tmp_path / "page")
    ran = run(*export, "--engine", "web", "--onnxruntime-web", tmp_path / "other.tgz")
    ran.complains(2, "onnxruntime-web must be version 1.", "got", "other.tgz", "https://registry.npmjs.org/")
    ran = run(*export, "--engine", "openvino", "--onnxruntime-web", tmp_path / "other.tgz")
    ran.complains(2, "--onnxruntime-web is of --engine web, got --engine openvino: leave it out")
    assert not (tmp_path / "page").exists()


@pytest.mark.slow
def test_export_verify_and_agree(run, tmp_path, web):
    folder = tmp_path / "page"
    ran = run("export", "--engine", "web", "--calibration", "scenes:2:1", "--out", folder)
    assert ran.code == 0, ran.err
    assert "for web: on this machine its results are those of the exact integer simulation" in ran.out
    assert f"serve it: python -m http.server --directory {folder} 8000" in ran.out
    found = run("verify", folder, "--rounds", "1", "--threads", "1", "--json").json
    assert found["engine_version"].startswith("onnxruntime-web 1.")
    assert found["integer"] == found["convolutions"] > 0
    scored = ("--data", "scenes:2", "--calibration", "scenes:2:1", "--noise-images", "0", "--layers")
    ran = run("agree", "--engine", "web", "--engine", "onnxruntime", *scored, "--json")
    records = ran.json["records"]
    assert [record["engine"] for record in records] == ["web", "onnxruntime"]
    assert records[0]["figures"]["between_onnxruntime_mask_iou"] > 99.9
    assert [title for title, _ in ran.json["layers"].items()] == ["int8 on web", "int8 on onnxruntime"]
