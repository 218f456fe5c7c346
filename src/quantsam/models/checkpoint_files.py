"""Tell by its content what kind of file a checkpoint is."""

from __future__ import annotations

import zipfile
from pathlib import Path, PurePosixPath

from quantsam.errors import WeightsError

_UNPACK = "unpack it, and give the file that is in it"
_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "a gzip-compressed file", _UNPACK),
    (b"BZh", "a bzip2-compressed file", _UNPACK),
    (b"\xfd7zXZ\0", "an xz-compressed file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a file compressed with Zstandard", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (b"Rar!", "a RAR archive", _UNPACK),
    (b"\x89HDF", "an HDF5 file, as Keras writes", "export the weights with torch.save or safetensors"),
    (b"\x93NUMPY", "a NumPy array", "export the weights with torch.save or safetensors"),
    (b"GGUF", "a GGUF file", "export the weights with torch.save or safetensors"),
    (b"\x80", "a bare pickle, torch.save's format before 1.6", "save it again with a newer torch"),
)


def is_torch_file(path: Path) -> bool:
    """Return whether a file is torch.save's zip archive rather than safetensors. Its content decides, not its name.

    Raises:
        WeightsError: The file is neither, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise WeightsError(
            f"weights file {str(path)!r} must be readable, got: {error.strerror}: check its permissions"
        ) from error
    if start.startswith(b"PK"):
        _check_archive(path)
        if path.suffix == ".safetensors":  # torch.load would go by the name
            raise WeightsError(f"weights file {str(path)!r} must be safetensors, got a torch.save file: name it .pt")
        return True
    if start[8:9] == b"{":  # behind the length of its header
        return False
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(f"weights file {str(path)!r} is a Git LFS pointer, not the weights: run `git lfs pull`")
    what, remedy = _kind(start)
    raise WeightsError(f"weights file {str(path)!r} must be a torch.save or safetensors file, got {what}: {remedy}")


def _kind(start: bytes) -> tuple[str, str]:
    for magic, what, remedy in _KINDS:
        if start.startswith(magic):
            return what, remedy
    if start[257:262] == b"ustar":
        return "a tar archive", _UNPACK
    if start.lstrip()[:1] == b"<":
        return "an HTML page", "download it again"
    if start.lstrip()[:1] in (b"{", b"["):
        return "a JSON file, e.g. a list of shards", "give the .safetensors or .pt file itself"
    if b"pytorch" in start and start[:1] == b"\x08":  # the producer that an ONNX model names first
        return "an ONNX model", "give the checkpoint that it was exported from"
    return "something else", "download it again"


def _check_archive(path: Path) -> None:
    """Refuse zip archives that torch.save clearly did not write. The reader reports damaged ones later."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
    except (OSError, ValueError, zipfile.BadZipFile, NotImplementedError):
        return
    last = {name.name for name in names}
    rule = f"weights file {str(path)!r} must be a torch.save or safetensors file, got"
    if "data.pkl" in last and "constants.pkl" in last:
        raise WeightsError(f"{rule} a TorchScript model: save model.state_dict() instead")
    if "archive_format" in last or "serialized_exported_program.json" in last:
        raise WeightsError(f"{rule} an exported program of torch.export: save model.state_dict() instead")
    inner = [name for name in names if name.suffix in (".pt", ".pth", ".safetensors", ".ckpt", ".bin")]
    if "data.pkl" not in last and inner:
        raise WeightsError(f"{rule} a zip archive that holds {str(inner[0])!r}: unpack it, and give the file in it")
    if "data.pkl" not in last and all(name.suffix == ".npy" for name in names) and names:
        raise WeightsError(f"{rule} NumPy arrays (.npz): export the weights with torch.save or safetensors")
