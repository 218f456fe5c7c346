"""Plans on disk: a round trip, and every way in which the folder can be wrong."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from quantsam.errors import OutputError, PlanError
from quantsam.models.variants import VARIANTS
from quantsam.plans import storage
from quantsam.plans.calibration import calibrate
from quantsam.plans.make import make_plan
from quantsam.plans.storage import check_plan_folder, load_plan, save_plan
from quantsam.schemes.load import parse_scheme
from quantsam.simulation.simulator import simulate

MIXED = """
[[rules]]
weight = "int4"
activation = "uint8"
[[rules]]
select = { kind = "conv" }
activation = { format = "int8", per_channel = true }
"""


@pytest.fixture(scope="module")
def plan(tiny):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(2)]
    return calibrate(tiny, make_plan(tiny, parse_scheme(MIXED, "mixed")), images)


@pytest.fixture
def folder(plan, tmp_path):
    return save_plan(plan, tmp_path / "plans" / "mixed")


def refused(folder, model, *parts):
    with pytest.raises(PlanError) as caught:
        load_plan(folder, model)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert part in message, message


def edit(folder, change, *, honest=False):
    """Change `plan.json`; an honest forger also renews what vouches for it."""
    path = folder / "plan.json"
    document = json.loads(path.read_text())
    change(document)
    if honest:
        del document["checksum"]
        plan = storage._from_json(json.loads(json.dumps(document)), load_file(folder / "params.safetensors"))
        document["digest"] = plan.digest
        document["checksum"] = storage._checksum(document)
    path.write_text(json.dumps(document))


def test_a_saved_plan_is_the_plan(plan, folder, tiny):
    loaded = load_plan(folder, tiny)
    assert sorted(p.name for p in folder.iterdir()) == ["params.safetensors", "plan.json"]
    assert loaded.digest == plan.digest
    for name in ("model", "encoder_digest", "scheme", "scheme_digest", "placement", "calibration"):
        assert getattr(loaded, name) == getattr(plan, name)
    assert [(s.key, s.kind, s.role, s.path, s.spec) for s in loaded.sites] == [
        (s.key, s.kind, s.role, s.path, s.spec) for s in plan.sites
    ]
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(simulate(tiny, loaded)(x), simulate(tiny, plan)(x))
    again = calibrate(tiny, loaded, [np.arange(3 * 64 * 64, dtype=np.uint8).reshape(64, 64, 3)])
    assert again.digest != plan.digest


@pytest.mark.parametrize("scheme", ["int8", "fp32"])
def test_a_plan_without_grids_is_saved_as_such(tiny, tmp_path, scheme):
    bare = make_plan(tiny, scheme)
    loaded = load_plan(save_plan(bare, tmp_path / "bare"), tiny)
    assert loaded.digest == bare.digest
    assert loaded.is_calibrated == bare.is_calibrated == (scheme == "fp32")
    assert loaded.calibration is None


def test_the_digest_sees_formats_and_grids(tiny, plan):
    others = [make_plan(tiny, parse_scheme(MIXED, "other name")), make_plan(tiny, "int8"), plan]
    assert len({other.digest for other in others}) == 3
    assert others[0].digest == make_plan(tiny, parse_scheme(MIXED, "mixed")).digest


def test_a_plan_for_another_model_or_other_weights(folder, make_tiny):
    refused(folder, make_tiny(9), "made for encoder weights", "load the weights it was calibrated with")
    with torch.device("meta"):
        from quantsam.models.sam import EfficientViTSam

        other = EfficientViTSam(VARIANTS["l0"])
    refused(folder, other, "plan was made for model 'nano', got 'l0'")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.update(scheme="int8"),
        lambda d: d.update(digest="0" * 64),
        lambda d: d["calibration"].update(count=5000),
        lambda d: d["sites"].pop(3),
        lambda d: d["sites"][0].update(path="backbone.stages.0.op_list.0"),
        lambda d: d["sites"][2]["spec"].update(format="int16"),
    ],
)
def test_a_changed_plan(folder, tiny, change):
    edit(folder, change)
    refused(folder, tiny, repr(str(folder)), "was changed after it was saved: calibrate again")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: d["sites"][0].update(path="no.such.module"), "stage0:0:0/input is no site of nano"),
        (lambda d: d["sites"][0].update(role="weight"), "stage0:0:0/input is no site of nano"),
        (lambda d: d["sites"][1].update(axis=1), "the grid of stage0:0:0/weight has another shape"),
        (lambda d: d["sites"][1]["spec"].update(format="int3.14"), "format must be"),
        (lambda d: d["sites"][1]["spec"].update(format=["int8"]), "unhashable"),
        (lambda d: d.update(placement="nowhere"), "placement must be"),
        (lambda d: d.update(placement="openvino"), "its transforms must begin with those of placement 'openvino'"),
    ],
)
def test_a_plan_that_was_forged_with_care(folder, tiny, change, words):
    edit(folder, change, honest=True)
    refused(folder, tiny, "does not hold together", words, "calibrate again")


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_cannot_be(folder, tiny, value):
    tensors = load_file(folder / "params.safetensors")
    tensors["stage0:0:0/weight.scale"][3] = value
    save_file(tensors, folder / "params.safetensors")
    refused(folder, tiny, "was changed after it was saved")
    edit(folder, lambda d: None, honest=True)
    refused(folder, tiny, "the scale of stage0:0:0/weight must be finite and > 0")


@pytest.mark.parametrize("ending", ["scale", "zero_point"])
def test_a_missing_tensor(folder, tiny, ending):
    tensors = load_file(folder / "params.safetensors")
    del tensors[f"stage0:0:0/weight.{ending}"]
    save_file(tensors, folder / "params.safetensors")
    refused(folder, tiny, repr(str(folder)), "calibrate again")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "null",
        "{}",
        '{"quantsam_plan": 4}',
        "[" * 100_000,
        '{"quantsam_plan": 4, "sites": 3, "checksum": 0}',
    ],
)
def test_a_damaged_json(folder, tiny, content):
    (folder / "plan.json").write_text(content)
    refused(folder, tiny, "is damaged (", "): calibrate again")


def test_bytes_that_are_no_text_and_tensors_that_are_none(folder, tiny):
    tensors = (folder / "params.safetensors").read_bytes()
    (folder / "params.safetensors").write_bytes(tensors[: len(tensors) // 2])
    refused(folder, tiny, "is damaged")
    (folder / "params.safetensors").unlink()
    refused(folder, tiny, "is damaged")
    (folder / "plan.json").write_bytes(b"\xff\xfe\x00")
    refused(folder, tiny, "is damaged")


def test_another_version(folder, tiny):
    edit(folder, lambda d: d.update(quantsam_plan=99))
    refused(folder, tiny, "must have version 4, got 99")


def test_what_is_no_plan(tmp_path, tiny):
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        refused(path, tiny, "plan must be a folder with plan.json", repr(str(path)), "quantsam calibrate")


def not_written(plan, folder, words):
    for attempt in (lambda: save_plan(plan, folder), lambda: check_plan_folder(folder)):
        with pytest.raises(OutputError, match=words) as caught:
            attempt()
        assert "\n" not in str(caught.value)


def test_what_is_not_a_plan_is_never_replaced(plan, folder, tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    not_written(plan, tmp_path, "it holds other files, choose an absent or empty one")
    not_written(plan, tmp_path / "thesis.docx", "a file of that name is there")
    (folder / "notes.txt").write_text("mine")
    not_written(plan, folder, "the folder also holds 'notes.txt'")
    assert (tmp_path / "thesis.docx").read_text() == "years of work"
    assert (folder / "notes.txt").read_text() == "mine"


def test_a_place_that_cannot_be_written(plan, tmp_path, monkeypatch):
    monkeypatch.setattr("quantsam.files.unwritable", lambda folder: f"{folder} is not writable")
    not_written(plan, tmp_path / "new", "is not writable, choose another place")


def test_an_older_plan_is_replaced_and_nothing_is_left_beside_it(plan, tiny, folder):
    save_plan(make_plan(tiny, "int8"), folder)
    assert load_plan(folder, tiny).scheme == "int8"
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), RuntimeError("bug")])
def test_an_interrupted_save_leaves_the_old_plan(plan, tiny, folder, monkeypatch, error):
    def fail(*_args):
        raise error

    monkeypatch.setattr(storage, "save", fail)
    with pytest.raises((KeyboardInterrupt, OutputError, RuntimeError)) as caught:
        save_plan(make_plan(tiny, "int8"), folder)
    if isinstance(error, OSError):
        assert "No space left on device" in str(caught.value)
    assert load_plan(folder, tiny).digest == plan.digest
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]
    shutil.rmtree(folder)
    with pytest.raises((KeyboardInterrupt, OutputError, RuntimeError)):
        save_plan(plan, folder)
    assert not folder.exists()
