def test_a_dry_run_lists_all_that_is_missing(run, tmp_path):
    line = ("sweep", "--set", "scheme=fp32,int8:omse", "--set", f"data=scenes:1,{tmp_path}/a,{tmp_path}/b")
    store = ("--store", tmp_path / "r.sqlite")
    ran = run(*line, "--dry-run", *store)
    assert ran.code == 1
    assert ran.out.startswith("command line: 6 runs")
    assert ran.out.count("cannot run") == 4
    assert ran.err.count("missing: ") == 2
    assert f"{tmp_path}/a" in ran.err
    assert f"{tmp_path}/b" in ran.err
    assert "4 of 6 runs cannot start: see above" in ran.err
    absent = ("--set", f"data={tmp_path}/a", "--set", f"calibration={tmp_path}/c", "--set", f"weights={tmp_path}/w.pt")
    absent = (*absent, "--set", f"detections={tmp_path}/d.json")
    ran = run("sweep", *absent, "--set", "scheme=int8", "--dry-run", *store)
    assert ran.err.count("missing: ") == 4
    assert all(f"{tmp_path}/{name}" in ran.err for name in ("a", "c", "w.pt", "d.json"))
    numbers = ("--set", "calibration_images=1,2,10", "--set", "data=scenes:1", "--set", "scheme=int8", "--dry-run")
    ran = run("sweep", *numbers, *store)
    shown = [line for line in ran.out.splitlines() if "to do" in line]
    assert ["calibration_images=10" in line for line in shown] == [False, False, True]
    found = run(*line, "--dry-run", "--json", *store)
    assert found.code == 1
    run(*line, *store).complains(1, f"{tmp_path}/a", "3 more runs cannot either, --dry-run lists all")
    unknown = run("sweep", "--set", "engine=foo,pytorch", "--set", "data=scenes:1", "--dry-run", *store)
    assert unknown.code == 1
    assert "missing: engine must be one of" in unknown.err
    same = ("--set", "scheme=fp32,int8", "--set", "calibration_images=1", "--repeats", "3", "--dry-run")
    ran = run("sweep", "--set", "data=scenes:1", "--set", "calibration=scenes:99:1", *same, *store)
    assert "2 of these runs compute what others do, and are done once" in ran.out
    seeded = ("--set", "calibration_seed=7", "--set", "calibration_images=1", "--repeats", "2")
    run("sweep", *seeded, *store).complains(2, "repeats and calibration_seed exclude each other, got seed 7")


def test_observers_and_numbers_of_calibration_images(run, own_store):
    line = ("sweep", "--set", "scheme=int8", "--set", "data=scenes:1", "--set", "calibration=scenes:40:1")
    ran = run(*line, "--set", "observer=minmax,percentile", "--set", "calibration_images=2", "--repeats", "2")
    assert "4 of 4 runs done" in ran.out
    records = run("results", "--json").json
    assert sorted((r["scheme"], r["settings"]["calibration_seed"]) for r in records) == [
        ("int8:minmax", 0),
        ("int8:minmax", 1),
        ("int8:percentile", 0),
        ("int8:percentile", 1),
    ]
    assert len({r["plan_digest"] for r in records}) == 4
    line = ("evaluate", "--scheme", "int8:percentile", "--data", "scenes:1", "--calibration", "scenes:3:1", "--json")
    (own,) = run(*line).json
    assert own["scheme"] == "int8:percentile"


def test_a_file_with_settings_beside_it(run, tmp_path):
    (tmp_path / "s.toml").write_text('[common]\ndata = "scenes:9"\n[[runs]]\nscheme = ["fp32", "int8"]\n')
    listed = run("sweep", tmp_path / "s.toml", "--set", "data=scenes:1", "--set", "model=nano-outlier", "--dry-run").out
    assert listed.startswith("s: 2 runs")
    assert listed.count("nano-outlier") == listed.count("scenes:1") == 2
    run("sweep").complains(2, "a sweep needs a FILE or --set key=value,value, got neither")
    run("sweep", tmp_path / "s.toml", "--threads", "2").complains(2, "in a file write threads = N")
