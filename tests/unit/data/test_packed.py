"""Annotations and detections that are packed, or no JSON at all."""

import bz2
import gzip
import io
import itertools
import json
import lzma
import pickle
import tarfile
import zipfile

import pytest

import quantsam.data.packed as packed
from quantsam.data.annotation_file import is_lvis_file, read_document
from quantsam.data.detections import load_detections
from quantsam.data.json_file import read_json
from quantsam.errors import DatasetError

COCO = {"images": [{"id": 1, "file_name": "a.png", "height": 4, "width": 6}], "annotations": []}
CONTENT = json.dumps(COCO).encode()


def zipped(**files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def tarred():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("a.json")
        entry.size = len(CONTENT)
        archive.addfile(entry, io.BytesIO(CONTENT))
    return buffer.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(CONTENT, mtime=0),
        gzip.compress(CONTENT[:20]) + gzip.compress(CONTENT[20:]),
        bz2.compress(CONTENT),
        lzma.compress(CONTENT),
        zipped(**{"annotations__instances_val2017.json": CONTENT, "__MACOSX__._instances_val2017.json": b"\0"}),
        zipped(**{"readme.txt": b"hello", "a.json.gz": gzip.compress(CONTENT, mtime=0)}),
        b"\xef\xbb\xbf" + CONTENT,
        CONTENT.decode().encode("utf-16"),
    ],
    ids=["gzip", "gzip in two parts", "bzip2", "xz", "zip", "gzip in zip", "byte-order mark", "UTF-16"],
)
def test_packed_files_are_read_whatever_their_name(tmp_path, content):
    path = tmp_path / "instances_val2017.json"
    path.write_bytes(content)
    assert read_document(path, "COCO") == COCO
    assert not is_lvis_file(path)


def test_packed_lvis_and_detections(tmp_path):
    (tmp_path / "lvis.json.gz").write_bytes(gzip.compress(b'{"images": [{"neg_category_ids": []}]}'))
    assert is_lvis_file(tmp_path / "lvis.json.gz")
    found = [{"image_id": 1, "category_id": 2, "bbox": [0, 0, 3, 3], "score": 0.5}]
    (tmp_path / "d.zip").write_bytes(zipped(**{"d.json": json.dumps(found).encode()}))
    assert len(load_detections(tmp_path / "d.zip", image_hw={1: (4, 6)}, category_ids=[2])) == 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(CONTENT, mtime=0)[:-9], "cannot be unpacked"),
        (gzip.compress(CONTENT, mtime=0)[:30], "cannot be unpacked"),
        (b"\x1f\x8b not gzip", "cannot be unpacked"),
        (lzma.compress(CONTENT)[:40], "cannot be unpacked"),
        (b"BZh9 no", "cannot be unpacked"),
        (b"PK\x03\x04 no", "cannot be unpacked"),
        (zipped(), "a zip archive that holds no JSON file: unpack it"),
        (zipped(**{"a.xml": b"<a/>"}), "a zip archive that holds no JSON file: unpack it"),
        (
            zipped(**{"instances_train2017.json": CONTENT, "instances_val2017.json": CONTENT}),
            r"holds 2 JSON files \(instances_train2017.json, instances_val2017.json\): unpack it, and give one",
        ),
        (gzip.compress(tarred()), "a packed tar archive: unpack it"),
        (tarred(), "a tar archive: unpack it"),
        (gzip.compress(gzip.compress(gzip.compress(CONTENT, mtime=0))), "packed several times over: unpack it"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12\n", "Git LFS pointer.*`git lfs pull`"),
        (b"7z\xbc\xaf\x27\x1c\0", "7-Zip archive: unpack it"),
        (b"Rar!\x1a\x07", "RAR archive: unpack it"),
        (b"\x28\xb5\x2f\xfd\0", "Zstandard: unpack it"),
        (b"PAR1", "Parquet table: export it in COCO's format"),
        (b"\x89HDF\r\n", "HDF5 file: export it"),
        (b"SQLite format 3\0", "SQLite database: export it"),
        (pickle.dumps(COCO), "Python pickle, which is never opened: export it"),
        (b"\x89PNG\r\n\x1a\n", "an image: give the JSON file"),
        (
            b'<?xml version="1.0"?>\n<annotation><folder>VOC</folder>',
            r"XML \(an annotation of Pascal VOC\): export it in",
        ),
        (b"<annotations><version>1.1</version>", r"XML \(annotations of CVAT\): export it from CVAT as COCO 1.0"),
        (b"\xef\xbb\xbf <kml/>", "XML: export it in COCO's format"),
        (b"<!DOCTYPE html><html>", "an HTML page: download it again"),
        (b"\n<HTML><body>Not found", "an HTML page: download it again"),
        (b"0 0.5 0.5 0.1 0.2\n1 0.1 0.1 0.2 0.2\n", "begins with '0 0.5 0.5 0.1 0.2': give a file in COCO's format"),
        (b"names:\n  0: person\n", "begins with 'names:': give a file in COCO's format"),
        (CONTENT + b"\n" + CONTENT, "several JSON values, as JSON Lines does.*: give a file in COCO's format"),
        (CONTENT[:-3], "not valid JSON: .*: download it again"),
        (b"", r"it is empty \(0 bytes\): download it again"),
        (b'{"images": "caf\xe9"}', "it is no text at byte 15: save it as UTF-8"),
    ],
    ids=itertools.count(),  # not the contents, which hold the time
)
def test_what_is_no_annotation_file_is_named(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DatasetError, match=rf"a\.json.*{message}") as raised:
        read_json(path, "the annotation file", "check the path")
    assert "\n" not in str(raised.value)
    assert not is_lvis_file(path)


def test_a_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(packed, "MAX_BYTES", 1 << 20)
    for name, content in (("a.gz", gzip.compress(b" " * (2 << 20))), ("a.zip", zipped(**{"a.json": b" " * (2 << 20)}))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DatasetError, match=r"more than 0 GiB when unpacked"):
            read_json(tmp_path / name, "the annotation file", "check the path")
