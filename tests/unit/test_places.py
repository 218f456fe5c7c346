"""Places for what nobody named one for: the user's, a temporary one, or none."""

import os
import tempfile
from pathlib import Path

import pytest

from quantsam import places
from quantsam.files import expanded, unwritable
from quantsam.places import cache_folder, temporary_folder, user_cache, user_data
from quantsam.results.store import default_store_path


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine whose home and temporary folder are below `tmp_path`."""
    for name in ("XDG_DATA_HOME", "XDG_CACHE_HOME", "QUANTSAM_STORE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    return tmp_path


def test_the_user_s_folders_come_first(machine):
    assert cache_folder("kernels") == machine / "home" / ".cache" / "quantsam" / "kernels"
    assert default_store_path() == machine / "home" / ".local" / "share" / "quantsam" / "results.sqlite"
    assert list(machine.iterdir()) == [machine / "tmp"]  # asking makes nothing


def test_a_home_that_cannot_be_made_leaves_a_temporary_place(machine):
    (machine / "home").touch()
    mine = machine / "tmp" / f"quantsam-{os.getuid()}"
    assert cache_folder("kernels") == mine / "kernels"
    assert mine.stat().st_mode & 0o777 == 0o700
    assert default_store_path() == mine / "results.sqlite"


def test_a_home_that_may_not_be_entered(machine, monkeypatch):
    """`Path.exists` and `Path.is_symlink` raise there, on Python 3.11."""

    def refused(real):
        def call(self, *arguments, **options):
            if self.is_relative_to(machine / "home"):
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, *arguments, **options)

        return call

    (machine / "home").touch()  # so that nothing can be made below it either
    for name in ("stat", "lstat"):
        monkeypatch.setattr(Path, name, refused(getattr(Path, name)))
    monkeypatch.setattr(os.path, "lexists", lambda place: not Path(place).is_relative_to(machine / "home"))
    monkeypatch.setattr(os.path, "exists", lambda place: not Path(place).is_relative_to(machine / "home"))
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: (_ for _ in ()).throw(PermissionError(13, "no")))
    assert unwritable(machine / "home" / "deep") == f"{machine} is not writable"


def test_a_user_without_a_home(machine, monkeypatch):
    def no_home(_name):
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(places.platformdirs, "user_data_dir", no_home)
    monkeypatch.setattr(places.platformdirs, "user_cache_dir", no_home)
    assert user_data() is user_cache() is None
    assert default_store_path() == machine / "tmp" / f"quantsam-{os.getuid()}" / "results.sqlite"


def test_a_store_that_is_there_is_read_though_its_folder_cannot_be_written(machine, monkeypatch):
    usual = default_store_path()
    usual.parent.mkdir(parents=True)
    usual.touch()
    monkeypatch.setattr("quantsam.results.store.unwritable", lambda _: "read-only")
    assert default_store_path() == usual


def test_a_machine_where_nothing_can_be_written(machine, monkeypatch):
    (machine / "home").touch()
    (machine / "tmp" / f"quantsam-{os.getuid()}").touch()  # a file where the folder should be
    assert temporary_folder() is None
    assert cache_folder("kernels") is None

    def nowhere():
        raise FileNotFoundError(2, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", nowhere)
    assert temporary_folder() is None


@pytest.mark.parametrize("what", ["open to all", "a link", "of another user"])
def test_what_others_may_have_put_there_is_not_used(machine, monkeypatch, what):
    mine = machine / "tmp" / f"quantsam-{os.getuid()}"
    if what == "a link":
        (machine / "trap").mkdir(mode=0o700)
        mine.symlink_to(machine / "trap")
    else:
        mine.mkdir(mode=0o700)
    if what == "open to all":
        mine.chmod(0o777)
    if what == "of another user":
        real = Path.lstat
        monkeypatch.setattr(
            Path, "lstat", lambda self: os.stat_result((*real(self)[:4], os.getuid() + 1, *real(self)[5:]))
        )
    assert temporary_folder() is None


def test_a_folder_is_tried_not_asked():
    """Root may write everywhere, say the mode bits; /proc says otherwise."""
    assert unwritable(Path("/proc/no/such/folder")) == "/proc is not writable"


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert expanded("~/a/b.pt") == tmp_path / "a" / "b.pt"
    assert expanded("~") == tmp_path
    assert expanded("a~b") == Path("a~b")
    assert expanded("~no-such-user/x") == Path("~no-such-user/x")
