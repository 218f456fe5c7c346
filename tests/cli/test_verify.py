"""The command `quantsam verify`."""


def test_a_bundle_is_checked(run, tmp_path):
    folder = tmp_path / "bundle"
    export = ("export", "--engine", "openvino", "--calibration", "scenes:2:1", "--out", folder)
    run(*export)
    ran = run("verify", folder, "--rounds", "1", "--threads", "1")
    assert ran.code == 0
    for words in (
        "nano, int8, exported for openvino",
        "files: manifest, graphs and stored values as exported\n",
        "run in integers",
        "a box:",
    ):
        assert words in ran.out
    found = run("verify", folder, "--rounds", "1", "--json").json
    assert found["integer"] == found["convolutions"] > 0
    half = ("export", "--scheme", "fp32", "--precision", "f16", "--calibration", "scenes:1:1", "--out", tmp_path / "h")
    assert "values that come near its largest number on scenes-1-seed1" in run(*half).out
    refused = ("export", "--precision", "f16", "--engine", "onnxruntime", "--out", tmp_path / "x")
    run(*refused).complains(2, "--precision f16 on onnxruntime needs --scheme fp32, got int8")
    (folder / "run.py").write_text("# mine")
    assert "as exported; changed since: run.py\n" in run("verify", folder, "--rounds", "1").out
    (folder / "check.npz").write_bytes(b"x")
    run("verify", folder).complains(
        1, "check.npz of bundle", "is not the file that was exported: copy the bundle again"
    )
    run("verify", tmp_path).complains(1, "bundle must be a folder with manifest.json")
