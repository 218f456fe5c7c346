"""Old spellings of options and keys still work for a version, and a line says what they are called now."""

FEW = ("--calibration", "scenes:3:1")


def test_limit_is_calibration_images(run, tmp_path):
    ran = run("calibrate", *FEW, "--limit", "2", "--out", tmp_path / "plan", "--json")
    assert ran.json["calibration"]["images"] == 2
    assert ran.err.splitlines()[0] == (
        "quantsam: note: --limit is now called --calibration-images: the old name goes with the next version"
    )
    assert "'--calibration-images': 0 is not" in run("calibrate", *FEW, "--limit", "0", "--out", tmp_path / "none").err


def test_old_and_new_together_are_refused(run, tmp_path):
    ran = run("calibrate", *FEW, "--limit", "2", "--calibration-images", "1", "--out", tmp_path / "plan")
    ran.complains(2, "--limit and --calibration-images are one option: leave --limit out")
    line = ("distributions", *FEW, "--no-store")
    run(*line, "--images", "3", "--images-limit", "5").complains(2, "--images-limit and --images are one option")
    run(*line, "--images", "scenes:2:5", "--data", "scenes:1").complains(2, "--images must be a number", "scenes:2:5")
    ran = run(
        "sweep", "--set", "limit=2", "--set", "calibration_images=1", "--dry-run", "--store", tmp_path / "r.sqlite"
    )
    ran.complains(2, "'limit' and 'calibration_images' are one key: leave 'limit' out")


def test_images_of_distributions_once_named_pictures(run):
    line = ("distributions", *FEW, "--no-store", "--json")
    ran = run(*line, "--images", "scenes:2:5", "--images-limit", "1")
    assert "--images-limit is now called --images" in ran.err
    assert "what --images named is now called --data" in ran.err
    assert ran.json["figures"] == run(*line, "--data", "scenes:2:5", "--images", "1").json["figures"]
    assert ran.json["figures"]["images"] == 1


def test_old_names_are_not_in_help(run):
    for command in ("calibrate", "distributions"):
        shown = run(command, "--help").out
        assert "--calibration-images" in shown
        assert "--limit" not in shown
        assert "--images-limit" not in shown


def test_a_sweeps_key(run, tmp_path):
    ran = run("sweep", "--set", "limit=2", "--set", "data=scenes:1", "--dry-run", "--store", tmp_path / "r.sqlite")
    assert "'limit' is now called 'calibration_images'" in ran.err
    assert "calibration_images=2" in ran.out
