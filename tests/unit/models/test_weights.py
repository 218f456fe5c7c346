"""Reading checkpoints: round trips, and everything that a broken or hostile file may be."""

from __future__ import annotations

import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from quantsam.errors import WeightsError
from quantsam.models.variants import VARIANTS
from quantsam.models.weights import expected_shapes, read_checkpoint
from quantsam.models.zoo import load_model

NANO = VARIANTS["nano"]


@pytest.fixture(scope="module")
def state():
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.tensor(0) if name.endswith("num_batches_tracked") else torch.randn(shape, generator=generator)
        for name, shape in expected_shapes(NANO).items()
    }


def save(state, path):
    save_file(state, path) if path.suffix == ".safetensors" else torch.save(state, path)
    return path


def refused(path, *parts):
    """Assert that a file is refused in one line that names it and says all of `parts`."""
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(path, NANO)
    message = str(caught.value)
    assert "\n" not in message
    for part in (repr(str(path)), *parts):
        assert part in message, message


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_round_trip(tmp_path, state, suffix):
    path = save(state, tmp_path / f"w{suffix}")
    model = load_model("nano", path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert not any(p.requires_grad for p in model.parameters())


def test_a_state_dict_may_be_nested_and_a_suffix_may_lie(tmp_path, state):
    nested = save({"state_dict": state, "epoch": 3}, tmp_path / "nested.pt")
    assert torch.equal(
        read_checkpoint(nested, NANO)["mask_decoder.iou_token.weight"], state["mask_decoder.iou_token.weight"]
    )
    lying = tmp_path / "really_safetensors.pt"
    save_file(state, lying)
    assert read_checkpoint(lying, NANO).keys() == state.keys()
    refused(save(state, tmp_path / "w.pt").rename(tmp_path / "w.safetensors"), "got a torch.save file: name it .pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(tmp_path, state, suffix, dtype):
    half = {name: value.to(dtype) if value.is_floating_point() else value for name, value in state.items()}
    loaded = read_checkpoint(save(half, tmp_path / f"w{suffix}"), NANO)
    for name, value in loaded.items():
        assert torch.equal(value, half[name].float() if half[name].is_floating_point() else half[name])
        assert value.dtype in (torch.float32, torch.int64)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_model_survives_its_file_being_overwritten(tmp_path, state, suffix):
    path = save(state, tmp_path / f"w{suffix}")
    loaded = read_checkpoint(path, NANO)
    with path.open("r+b") as file:
        file.write(b"\xff" * path.stat().st_size)
    for name, value in loaded.items():
        assert torch.equal(value, state[name])


def test_what_is_no_file(tmp_path):
    refused(tmp_path / "absent.pt", "must exist", "check the path")
    refused(tmp_path, "got the folder", "name the .pt or .safetensors in it")
    (tmp_path / "empty.pt").touch()
    refused(tmp_path / "empty.pt", "is empty (0 bytes)")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>Not found</html>", "an HTML page"),
        (b"\n  <html>", "an HTML page"),
        (b"Entry not found", "something else"),
        (b"\x00", "something else"),
    ],
)
def test_what_is_no_checkpoint(tmp_path, suffix, content, words):
    path = tmp_path / f"w{suffix}"
    path.write_bytes(content)
    refused(path, words, ": ")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("keep", [0.01, 0.5, 0.999])
def test_a_truncated_file(tmp_path, state, suffix, keep):
    path = save(state, tmp_path / f"w{suffix}")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    refused(path, "truncated or damaged", "download it again")


def test_another_zip_archive(tmp_path):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("word/document.xml", "<x/>")
    refused(tmp_path / "w.pt", "truncated or damaged")


class Bomb:
    """Unpickling it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_a_checkpoint_is_never_run(tmp_path, state):
    proof = tmp_path / "executed"
    torch.save({"state_dict": state, "config": Bomb(proof)}, tmp_path / "bomb.pt")
    refused(tmp_path / "bomb.pt", "Python objects besides tensors", "safetensors")
    assert not proof.exists()
    torch.load(tmp_path / "bomb.pt", weights_only=False)["config"].close()
    assert proof.exists()  # the bomb was live


def test_code_in_a_bare_pickle_is_never_run(tmp_path):
    proof = tmp_path / "executed"
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb(proof)))
    refused(tmp_path / "bomb.pt", "a bare pickle")
    assert not proof.exists()


@pytest.mark.parametrize("program", [b"", b"\x80\x02.", b"\x80\x02}q\x00(", b"garbage", b"\x80\x02K\x01\x85R."])
def test_a_damaged_pickle_inside_a_sound_archive(tmp_path, program):
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
        archive.writestr("archive/data.pkl", program)
        archive.writestr("archive/version", "3\n")
    refused(tmp_path / "w.pt", "weights file")


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(3), {"a": 1}, {"state_dict": {"a": "b"}}, {3: torch.zeros(1)}])
def test_a_checkpoint_of_something_else(tmp_path, content):
    refused(save(content, tmp_path / "w.pt"), "must hold a state dict of plain tensors")


@pytest.mark.parametrize("other", ["l0", "xl1"])
def test_the_weights_of_another_variant_are_named(tmp_path, other):
    path = tmp_path / "w.pt"
    torch.save({k: torch.zeros(()).expand(s) for k, s in expected_shapes(VARIANTS[other]).items()}, path)
    refused(path, "must fit model 'nano'", f"got the weights of {other!r}", f"use --model {other}")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_entries_missing_unknown_and_of_another_shape(tmp_path, state, suffix):
    changed = dict(state)
    changed["extra.weight"] = changed.pop("neck_missing", torch.zeros(1))
    del changed["image_encoder.norm.weight"]
    changed["image_encoder.norm.bias"] = torch.zeros(3)
    refused(
        save(changed, tmp_path / f"w{suffix}"),
        "1 entries missing (first: image_encoder.norm.weight)",
        "1 entries unknown (first: extra.weight)",
        "1 entries of another shape (first: image_encoder.norm.bias)",
    )


def test_a_huge_tensor_is_refused_by_its_shape_before_memory_is_taken(tmp_path, state):
    huge = dict(state) | {"image_encoder.norm.bias": torch.zeros(1).expand(2**45)}
    refused(save(huge, tmp_path / "w.pt"), "of another shape")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(tmp_path, state, suffix, value):
    bad = state["image_encoder.norm.weight"].clone()
    bad[5] = value
    path = save(dict(state) | {"image_encoder.norm.weight": bad}, tmp_path / f"w{suffix}")
    refused(path, "values of image_encoder.norm.weight must be finite")


def test_weights_that_are_integers_or_sparse(tmp_path, state):
    name = "image_encoder.norm.weight"
    codes = dict(state) | {name: torch.ones(64, dtype=torch.int8)}
    refused(save(codes, tmp_path / "w.safetensors"), f"{name} must be floating-point, got int8")
    refused(save(dict(state) | {name: torch.ones(64).to_sparse()}, tmp_path / "w.pt"), "plain tensors")


def test_a_file_that_may_not_be_read(tmp_path, state, monkeypatch):
    path = save(state, tmp_path / "w.pt")

    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", denied)
    refused(path, "must be readable, got: Permission denied")
