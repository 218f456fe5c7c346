"""Reading checkpoints: round trips, and everything that a broken or hostile file may be."""

import os
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
    codes = dict(state) | {name: torch.ones(NANO.embed_dim, dtype=torch.int8)}
    refused(save(codes, tmp_path / "w.safetensors"), f"{name} must be floating-point, got int8")
    refused(save(dict(state) | {name: torch.ones(NANO.embed_dim).to_sparse()}, tmp_path / "w.pt"), "plain tensors")


def test_a_file_that_may_not_be_read(tmp_path, state, monkeypatch):
    path = save(state, tmp_path / "w.pt")

    def denied(*_args, **_kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", denied)
    refused(path, "must be readable, got: Permission denied")


WRAPPED = {
    "DistributedDataParallel": lambda name: f"module.{name}",
    "torch.compile": lambda name: f"_orig_mod.{name}",
    "both": lambda name: f"module._orig_mod.{name}",
    "both, the other way round": lambda name: f"_orig_mod.module.{name}",
    "a compiled part": lambda name: name.replace("image_encoder.", "image_encoder._orig_mod."),
    "FSDP": lambda name: f"_fsdp_wrapped_module.{name}".replace(".backbone.", ".backbone._fsdp_wrapped_module."),
    "Lightning": lambda name: f"model.{name}",
    "a longer prefix": lambda name: f"net.sam.module.{name}",
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("how", WRAPPED)
def test_names_that_wrappers_changed(tmp_path, state, suffix, how):
    path = save({WRAPPED[how](name): value for name, value in state.items()}, tmp_path / f"w{suffix}")
    loaded = read_checkpoint(path, NANO)
    assert loaded.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(
    "more",
    [
        {"total_ops": torch.zeros(1), "total_params": torch.zeros(1), "image_encoder.total_ops": torch.zeros(())},
        {"n_averaged": torch.tensor(7)},
        {"image_encoder.old.num_batches_tracked": torch.tensor(3)},
    ],
    ids=["thop", "averaged", "a counter"],
)
def test_counters_may_be_too_many(tmp_path, state, suffix, more):
    loaded = read_checkpoint(save(state | more, tmp_path / f"w{suffix}"), NANO)
    assert loaded.keys() == state.keys()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_counters_may_be_missing_or_of_one_dimension(tmp_path, state, suffix):
    counters = [name for name in state if name.endswith("num_batches_tracked")]
    less = {name: value for name, value in state.items() if name not in counters}
    assert len(less) < len(state)
    model = load_model("nano", save(less, tmp_path / f"less{suffix}"))
    assert model.state_dict().keys() == state.keys()
    assert all(int(model.state_dict()[name]) == 0 for name in counters)
    flat = state | {name: torch.tensor([5]) for name in counters}
    assert read_checkpoint(save(flat, tmp_path / f"flat{suffix}"), NANO)[counters[0]].shape == ()


@pytest.mark.parametrize("key", ["model", "model_state_dict", "ema", "net"])
def test_training_checkpoints(tmp_path, state, key):
    content = {key: {"state_dict": state} if key == "ema" else state, "epoch": 3, "optimizer": {"state": {}, "lr": 0.1}}
    assert read_checkpoint(save(content, tmp_path / "w.pt"), NANO).keys() == state.keys()


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_surplus_weights_are_called_that(tmp_path, state, suffix):
    more = {f"module.{name}": value for name, value in state.items()} | {"module.lora_A": torch.zeros(4, 8)}
    refused(save(more, tmp_path / f"w{suffix}"), "it holds all of 'nano', and 1 surplus entries", "'nano'", "adapters")
    with pytest.raises(WeightsError) as caught:
        read_checkpoint(tmp_path / f"w{suffix}", VARIANTS["l0"])
    assert "it holds all of 'nano'" in str(caught.value)


def test_a_wrapped_file_of_another_variant_is_recognised(tmp_path, state):
    path = save({f"module.{name}": value for name, value in state.items()}, tmp_path / "w.pt")
    with pytest.raises(WeightsError, match=r"must fit model 'l0', got the weights of 'nano': use --model nano"):
        read_checkpoint(path, VARIANTS["l0"])


def test_two_models_in_one_file_are_not_mixed(tmp_path, state):
    both = state | {f"module.{name}": value + 1 for name, value in state.items() if value.is_floating_point()}
    refused(save(both, tmp_path / "w.pt"), "more than once", "export one model's state dict alone")


def archive(path, *names):
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(name, "x")


def test_other_archives_are_named(tmp_path):
    archive(tmp_path / "zipped.pt", "readme.md", "weights/l0.pt")
    refused(tmp_path / "zipped.pt", "a zip archive that holds 'weights/l0.pt': unpack it")
    archive(tmp_path / "arrays.pt", "a.npy", "b.npy")
    refused(tmp_path / "arrays.pt", "NumPy arrays (.npz)")
    archive(tmp_path / "script.pt", "script/data.pkl", "script/constants.pkl", "script/code/m.py")
    refused(tmp_path / "script.pt", "a TorchScript model: save model.state_dict() instead")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\x1f\x8b\x08\0", "a gzip-compressed file: unpack it"),
        (b'{"weight_map": {}}', "a JSON file, e.g. a list of shards: give the .safetensors"),
        (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive: unpack it"),
        (b"\x28\xb5\x2f\xfd", "Zstandard: unpack it"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file, as Keras writes"),
        (b"\x93NUMPY\1\0", "a NumPy array"),
        (b"\x08\x08\x12\x07pytorch\x1a\x052.4.0", "an ONNX model"),
        (b"a" * 257 + b"ustar", "a tar archive: unpack it"),
    ],
)
def test_other_files_are_named(tmp_path, content, words):
    (tmp_path / "w.pt").write_bytes(content)
    refused(tmp_path / "w.pt", words)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_name_may_hold_any_bytes(tmp_path, state, suffix):
    folder = tmp_path / os.fsdecode(b"f\xff")
    folder.mkdir()
    path = save(state, tmp_path / f"w{suffix}").rename(folder / f"w{suffix}")
    assert read_checkpoint(path, NANO).keys() == state.keys()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="truncated or damaged"):
        read_checkpoint(path, NANO)


def test_a_home_folder_is_known_by_its_sign(tmp_path, state, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(state, tmp_path / "w.pt")
    assert load_model("nano", "~/w.pt").name
