import json
import shutil

import pytest

import quantsam as qs
from quantsam.models.variants import VARIANTS
from quantsam.results.store import ResultStore

NANO = VARIANTS["nano"]

ONE = ("--calibration", "scenes:1:1")


def without_times(records):
    return [
        {k: v for k, v in record.items() if k not in ("id", "created_utc", "times", "environment")}
        for record in records
    ]


def test_schemes_side_by_side_as_json(run, own_store):
    fp32, int8 = run("evaluate", "--data", "scenes:2", "--scheme", "fp32", "--scheme", "int8", *ONE, "--json").json
    assert (fp32["scheme"], int8["scheme"]) == ("fp32", "int8")
    assert fp32["paired_difference"] is None
    difference = int8["paired_difference"]
    assert difference["count"] == fp32["figures"]["count"] == int8["figures"]["count"]
    expected = int8["figures"]["miou"] - fp32["figures"]["miou"]
    assert difference["mean_difference"] == pytest.approx(expected)
    assert fp32["calibration"] is None
    assert int8["calibration"] == "scenes-1-seed1"
    assert int8["settings"]["weights"] is int8["settings"]["activations"] is True
    assert [record.id for record in ResultStore(own_store).records()] == [fp32["id"], int8["id"]]


def test_schemes_side_by_side_as_a_table(run, own_store):
    ran = run("evaluate", "--data", "scenes:1", "--scheme", "fp32", "--scheme", "int8", *ONE)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("nano on scenes-1-seed0, box prompts: ")
    for words in ("vs fp32", "(filled box)", "calibrated on scenes-1-seed1; placement thesis", f"kept in {own_store}"):
        assert words in ran.out
    table = ran.out.split("\n\n")[0].splitlines()
    assert max(len(line.rstrip()) for line in table) <= 100
    assert len(table) == 6  # title, header, rule, two schemes, baseline


def test_the_same_command_gives_the_same_figures(run):
    line = ("evaluate", "--data", "scenes:1", "--scheme", "w4a8", "--prompts", "click", *ONE, "--json")
    first, again = run(*line).json, run(*line, "--again").json
    assert without_times(first) == without_times(again)
    assert first[0]["id"] != again[0]["id"]


def test_what_is_finished_is_not_measured_again(run, own_store):
    line = ("evaluate", "--data", "scenes:2", *ONE)
    fp32 = run(*line, "--json").json[0]
    ran = run(*line, "--scheme", "int8")
    assert "vs fp32" in ran.out  # found in the store
    assert "kept, not measured again" not in ran.out
    both = run(*line, "--scheme", "int8", "--scheme", "fp32")
    assert "kept, not measured again: int8, fp32 (newest of " in both.out
    assert ran.out.splitlines()[3:5] == both.out.splitlines()[3:5][::-1]
    alone = run(*line, "--scheme", "int8", "--json").json[0]
    assert alone["paired_difference"]["compared_with"] == fp32["id"]
    assert alone["paired_difference"]["count"] == fp32["figures"]["count"]
    assert len(ResultStore(own_store).records()) == 2
    for other in (("--prompts", "click"), ("--no-weights",)):
        run(*line, "--scheme", "int8", *other)
    assert len(ResultStore(own_store).records()) == 4


def test_one_side_only_is_marked(run):
    ran = run("evaluate", "--data", "scenes:1", "--scheme", "int8", "--no-activations")
    assert "int8 (W only)" in ran.out
    assert "calibrated on" not in ran.out  # weights need no images
    ran = run("evaluate", "--data", "scenes:1", "--scheme", "int8", "--no-weights", *ONE)
    assert "int8 (A only)" in ran.out
    assert {r["scheme"] for r in run("results", "--json").json} == {"int8"}
    table = run("results").out
    assert "int8 (W only)" in table
    assert "int8 (A only)" in table


def test_no_store_and_another_store(run, own_store, tmp_path):
    run("evaluate", "--data", "scenes:1", "--no-store")
    assert not own_store.exists()
    run("evaluate", "--data", "scenes:1", "--store", tmp_path / "mine.sqlite")
    assert len(ResultStore(tmp_path / "mine.sqlite").records()) == 1
    assert not own_store.exists()


def test_a_plan_gives_what_its_scheme_gave(run, plan):
    line = ("evaluate", "--data", "scenes:1", "--json")
    (by_plan,) = without_times(run(*line, "--plan", plan).json)
    (by_scheme,) = without_times(run(*line, "--scheme", "int8", *ONE).json)
    assert by_plan == by_scheme
    assert json.loads((plan / "plan.json").read_text())["digest"] == by_plan["plan_digest"]


def test_calibrate_reports_what_it_saved(run, tmp_path):
    out = tmp_path / "new" / "plan"
    found = run("calibrate", "--calibration", "scenes:1:1", "--out", out, "--json").json
    assert found["plan"] == str(out)
    assert found["calibration"]["name"] == "scenes-1-seed1"
    assert found["calibration"]["images"] == 1
    assert sorted(path.name for path in out.iterdir()) == ["params.safetensors", "plan.json"]
    ran = run("calibrate", "--scheme", "int8@neck", "--no-activations", "--out", out)  # replaces the plan
    neck = len(NANO.neck_stages) + 2 * NANO.neck_depth + 1  # weights: of its inputs, its blocks and its output
    assert ran.out == f"{out}: nano, int8@neck, {neck} sites, no images needed\n"
    assert sorted(path.name for path in out.parent.iterdir()) == ["plan"]


def test_weights_alone_need_no_pictures_of_the_model_s_kind(run, tmp_path):
    # l0 without --calibration is refused only where images are needed; here its weights are what is missing
    ran = run("calibrate", "--model", "l0", "--weights", "absent.pt", "--no-activations", "--out", tmp_path / "p")
    ran.complains(1, "absent.pt")


def changed_plan(plan, folder, **changes):
    shutil.copytree(plan, folder)
    document = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(document | changes))
    return folder


@pytest.mark.parametrize(
    "changes", [{"model": "l0"}, {"encoder_digest": "0" * 64}, {"quantsam_plan": 99}, {"sites": 3}, {"digest": "0"}]
)
def test_a_plan_that_does_not_fit_is_refused(run, plan, tmp_path, changes):
    folder = changed_plan(plan, tmp_path / "plan", **changes)
    run("evaluate", "--data", "scenes:1", "--plan", folder).complains(1, "plan")


def test_a_plan_of_other_weights_is_refused(run, plan, tmp_path):
    import torch
    from safetensors.torch import save_file

    from quantsam.models.zoo import load_model

    state = load_model("nano").state_dict()
    name = next(name for name in state if name.startswith("image_encoder") and name.endswith("weight"))
    state[name] = state[name] + torch.full_like(state[name], 0.01)
    save_file(state, tmp_path / "other.safetensors")
    ran = run("evaluate", "--data", "scenes:1", "--plan", plan, "--weights", tmp_path / "other.safetensors")
    ran.complains(1, "plan was made for encoder weights", "calibrate again")


def test_a_folder_of_scenes_gives_the_figures_of_the_scenes(run, tmp_path):
    run("data", "scenes", tmp_path / "toy", "--count", "2")
    (written,) = run("evaluate", "--data", tmp_path / "toy", "--json").json
    (made,) = run("evaluate", "--data", "scenes:2", "--json").json
    assert written["figures"] == made["figures"]
    assert written["dataset_digest"] != made["dataset_digest"]


def test_real_photographs(run, shared_data):
    data = shared_data / "coco"
    ran = run("evaluate", "--model", "nano", "--scheme", "int8", "--data", data, "--images", "3", *ONE)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("nano on coco:val2017[3:0], box prompts: ")
    (record,) = run("results", "--json").json
    ids = qs.open_dataset(data, limit=3).image_ids
    file = json.loads((data / "annotations" / "instances_val2017.json").read_text())
    entries = [a for a in file["annotations"] if a["image_id"] in ids and a["area"] >= 1]
    assert record["figures"]["count"] == len(entries) > 0
    assert 0 < record["figures"]["box_fill_miou"] < 100
