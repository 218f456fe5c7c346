import errno
import os
import stat
from pathlib import Path

import pytest

from quantsam.errors import OutputError
from quantsam.files import atomic_write


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_new_file_appears_with_the_umask_s_mode(tmp_path):
    with atomic_write(tmp_path / "new.csv") as aside:
        aside.write_text("content")
        assert not (tmp_path / "new.csv").exists()
    (tmp_path / "plain").touch()
    assert (tmp_path / "new.csv").read_text() == "content"
    assert stat.S_IMODE((tmp_path / "new.csv").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_the_file_aside_is_a_sibling_with_the_same_suffix(tmp_path):
    with atomic_write(tmp_path / "new.npz") as aside:
        assert (aside.parent, aside.suffix) == (tmp_path, ".npz")
        assert aside.stat().st_size == 0


def test_the_old_file_is_replaced_only_at_the_end(tmp_path):
    path = tmp_path / "old.txt"
    path.write_text("old")
    with atomic_write(str(path)) as aside:
        aside.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["old.txt"]


def write_half(path: Path, error: type[BaseException]) -> None:
    with atomic_write(path) as aside:
        aside.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "old.txt"
    path.write_text("old")
    with pytest.raises(error):
        write_half(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["old.txt"]


def test_a_full_disk_is_one_clear_line(tmp_path):
    with pytest.raises(OutputError) as caught, atomic_write(tmp_path / "a.txt"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == f"cannot write {tmp_path / 'a.txt'}: No space left on device"
    assert names(tmp_path) == []


def test_a_refused_file_is_one_clear_line(tmp_path, monkeypatch):
    def refuse(self, *args, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", refuse)
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.txt: Permission denied$"),
        atomic_write(tmp_path / "a.txt"),
    ):
        pytest.fail("the folder must be found unwritable before the work")


def test_an_error_about_another_file_passes_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.txt"):
        (tmp_path / "input.txt").read_text()
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing/a.txt", "there is no folder"),
        ("a-file/a.txt", "there is no folder"),
        (".", "it is a folder"),
        ("a-pipe", "not a regular file"),
        ("loop", "symbolic link|Symlink loop"),
        ("nul\0", "null byte"),
    ],
)
def test_impossible_targets_are_refused_before_the_work(tmp_path, target, message):
    (tmp_path / "a-file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "a-pipe")
    before = names(tmp_path)
    with pytest.raises(OutputError, match=message) as caught, atomic_write(tmp_path / target):
        pytest.fail("nothing can be written there")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == before


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real/a.txt")
    with atomic_write(tmp_path / "link.txt") as aside:
        aside.write_text("new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path):
    path = tmp_path / ("n" * 251 + ".txt")
    with atomic_write(path) as aside:
        aside.write_text("content")
    assert path.read_text() == "content"
