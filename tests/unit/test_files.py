import errno
import os
import stat
from pathlib import Path

import pytest

from quantsam.errors import OutputError
from quantsam.files import atomic_folder, atomic_write, check_replaceable, unwritable


def names(folder):
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


def write_half(path, error):
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


def put(folder, content="content"):
    with atomic_folder(folder, replaces="plan.json") as aside:
        (aside / "plan.json").write_text(content)


def test_a_new_folder_appears_with_its_parents(tmp_path):
    with atomic_folder(tmp_path / "deep" / "er" / "new", replaces="plan.json") as aside:
        (aside / "plan.json").write_text("content")
        assert aside.parent == tmp_path / "deep" / "er"
        assert not (tmp_path / "deep" / "er" / "new").exists()
    assert (tmp_path / "deep" / "er" / "new" / "plan.json").read_text() == "content"
    assert names(tmp_path / "deep" / "er") == ["new"]


def test_an_older_folder_of_the_kind_is_replaced_whole(tmp_path):
    put(tmp_path / "plan", "old")
    (tmp_path / "plan" / "more.bin").touch()
    put(tmp_path / "plan", "new")
    assert names(tmp_path) == ["plan"]
    assert names(tmp_path / "plan") == ["plan.json"]
    assert (tmp_path / "plan" / "plan.json").read_text() == "new"


def test_an_empty_folder_is_replaced(tmp_path):
    (tmp_path / "plan").mkdir()
    put(tmp_path / "plan")
    assert names(tmp_path / "plan") == ["plan.json"]


def test_a_link_to_a_folder_is_followed_and_stays(tmp_path):
    put(tmp_path / "real", "old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "dangling").symlink_to("later")
    put(tmp_path / "link", "new")
    put(tmp_path / "dangling", "new")
    assert names(tmp_path) == ["dangling", "later", "link", "real"]
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "plan.json").read_text() == "new"
    assert (tmp_path / "later" / "plan.json").read_text() == "new"


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def put_half(folder, error):
    with atomic_folder(folder, replaces="plan.json") as aside:
        (aside / "plan.json").write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, FULL])
@pytest.mark.parametrize("there", [False, True])
def test_any_exception_leaves_the_old_folder_and_nothing_else(tmp_path, error, there):
    folder = tmp_path / "deep" / "plan"
    if there:
        put(folder, "old")
    with pytest.raises(OutputError if error is FULL else error, match="No space left" if error is FULL else None):
        put_half(folder, error)
    assert names(tmp_path) == (["deep"] if there else [])
    if there:
        assert names(folder.parent) == ["plan"]
        assert (folder / "plan.json").read_text() == "old"


@pytest.mark.parametrize("error", [KeyboardInterrupt, FULL])
def test_stopped_between_the_two_renames_the_old_folder_comes_back(tmp_path, monkeypatch, error):
    put(tmp_path / "plan", "old")
    rename = Path.rename

    def stop(self, target):
        if (self / "new").exists() and target == tmp_path / "plan":
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", stop)
    with (
        pytest.raises(OutputError if error is FULL else error),
        atomic_folder(tmp_path / "plan", replaces="plan.json") as aside,
    ):
        (aside / "new").touch()
    assert names(tmp_path) == ["plan"]
    assert (tmp_path / "plan" / "plan.json").read_text() == "old"


@pytest.mark.parametrize("name", ["input.txt", "plan-input.txt"])
def test_an_error_about_a_file_outside_the_folder_passes_unchanged(tmp_path, name):
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "plan", replaces="plan.json"):
        (tmp_path / name).read_text()
    assert names(tmp_path) == []


def test_an_error_about_a_file_in_the_folder_is_one_clear_line(tmp_path):
    with (
        pytest.raises(OutputError, match=r"cannot write the folder .*plan: No such file") as caught,
        atomic_folder(tmp_path / "plan", replaces="plan.json") as aside,
    ):
        (aside / "absent" / "params.bin").write_bytes(b"")
    assert "\n" not in str(caught.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("a-file", "a file of that name is there"),
        ("a-file/plan", "is a file, not a folder"),
        ("a-file/deep/plan", "is a file, not a folder"),
        ("full", "it holds other files"),
        ("loop", "symbolic link|Symlink loop"),
        ("nul\0", "null byte"),
        ("n" * 300, "too long"),
    ],
)
def test_folders_that_cannot_be_put_there_are_refused_before_the_work(tmp_path, target, message):
    (tmp_path / "a-file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match=message) as caught:
        check_replaceable(tmp_path / target, "plan.json")
    assert "\n" not in str(caught.value)
    with pytest.raises(OutputError, match=message):
        put(tmp_path / target)
    assert names(tmp_path) == ["a-file", "full", "loop"]
    assert names(tmp_path / "full") == ["mine.txt"]


def test_a_folder_that_may_not_be_written_is_named(tmp_path, monkeypatch):
    def refused(*, dir, prefix):  # noqa: A002
        raise PermissionError(13, "Permission denied", str(dir))

    monkeypatch.setattr("quantsam.files.tempfile.TemporaryFile", refused)  # root may write everywhere
    assert unwritable(tmp_path / "deep" / "er") == f"{tmp_path} is not writable"
    with pytest.raises(OutputError, match=f"{tmp_path} is not writable, choose another place"):
        check_replaceable(tmp_path / "deep" / "plan", "plan.json")


def test_a_link_to_nothing_is_no_place(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    assert unwritable(tmp_path / "link" / "deep") == f"{tmp_path / 'link'} is a link to nothing"


def test_the_root_folder_and_the_present_one(tmp_path, monkeypatch):
    with pytest.raises(OutputError, match="it holds other files"):
        check_replaceable("/", "plan.json")
    monkeypatch.chdir(tmp_path)
    assert check_replaceable("plan", "plan.json") == tmp_path / "plan"
    assert names(tmp_path) == []
