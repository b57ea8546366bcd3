"""Private, locked, durable files."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmctl.errors import BusyError, DiskError
from llmctl.storage import files
from llmctl.storage.files import (
    LockedFile,
    disk,
    mend_folder,
    open_private,
    private_folder,
    replacing,
    use_lock,
    write_private,
)


def mode(path: Path) -> int:
    """The permission bits."""
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o277])
def test_private_under_any_umask(tmp_path: Path, umask: int) -> None:
    """New folders are 0700 and new files 0600, whatever the umask."""
    before = os.umask(umask)
    try:
        folder = private_folder(tmp_path / "a" / "b")
        write_private(folder / "f", b"x")
        with LockedFile.open(folder / "g"):
            pass
    finally:
        os.umask(before)
    assert [mode(tmp_path / "a"), mode(folder)] == [0o700, 0o700]
    assert [mode(folder / "f"), mode(folder / "g")] == [0o600, 0o600]


def test_what_exists_keeps_its_mode(tmp_path: Path) -> None:
    """A folder or file that the user made is not tightened behind their back."""
    tmp_path.chmod(0o755)
    assert mode(private_folder(tmp_path)) == 0o755
    path = tmp_path / "f"
    path.write_bytes(b"")
    path.chmod(0o644)
    fd, created = open_private(path, os.O_RDWR)
    os.close(fd)
    assert not created
    assert mode(path) == 0o644


def test_through_a_dangling_link(tmp_path: Path) -> None:
    """A link to a file that does not exist yet makes that file."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "f")
    fd, created = open_private(link, os.O_RDWR)
    os.close(fd)
    assert created
    assert mode(tmp_path / "f") == 0o600


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "quota"),
        (errno.EIO, "hardware"),
        (errno.EROFS, "read-only"),
        (errno.EFBIG, "may not grow"),
        (errno.EACCES, "permission denied"),
        (errno.ENOLCK, "cannot lock"),
        (errno.EBUSY, "resource busy: check the disk"),
    ],
)
def test_errors_say_what_to_do(number: int, advice: str) -> None:
    """Every refusal of the disk is exit code 74, and names the path and what to do."""
    with pytest.raises(DiskError) as caught, disk("write to", "/x/y"):
        raise OSError(number, os.strerror(number))
    assert caught.value.exit_code == 74
    assert caught.value.message.startswith("cannot write to /x/y: ")
    assert advice.lower() in caught.value.message.lower().replace("device or ", "")


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """Exit code 74, and the variables that name other folders."""
    (tmp_path / "file").touch()
    with pytest.raises(DiskError, match=r"file/llmctl: .*LLMCTL_STATE_DIR") as caught:
        private_folder(tmp_path / "file" / "llmctl")
    assert caught.value.exit_code == 74


def test_replacing(tmp_path: Path) -> None:
    """A file is replaced whole, through a link, with nothing left beside it."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    link = tmp_path / "link"
    link.symlink_to(path)
    write_private(link, b"new")
    assert path.read_bytes() == b"new"
    assert link.is_symlink()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["f", "link"]


def half_replace(path: Path, cause: BaseException) -> None:
    """Fail while the new file is being written."""
    with replacing(path) as file:
        file.write(b"half")
        raise cause


def test_replacing_that_fails(tmp_path: Path) -> None:
    """When writing the new file fails, the old one is as it was."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    with pytest.raises(DiskError):
        half_replace(path, OSError(errno.ENOSPC, "full"))
    with pytest.raises(KeyboardInterrupt):
        half_replace(path, KeyboardInterrupt())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


WRITER = """
import sys; from pathlib import Path; from llmctl.storage.files import replacing
with replacing(Path(sys.argv[1])) as file:
    file.write(b"answers"); file.flush(); print(flush=True); input()
"""


def test_what_a_killed_process_has_left_is_swept(tmp_path: Path) -> None:
    """Case 64: copies of the dead go with the next replacement, that of a living one and files of
    the user's stay."""
    path, mine = tmp_path / "f", tmp_path / ".f.mine"
    mine.write_bytes(b"")
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", WRITER, str(path)],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            )
            for _ in range(2)
        ]  # fmt: skip
        for writer in writers:
            assert writer.stdout is not None
            writer.stdout.readline()
        assert len(list(tmp_path.rglob("new"))) == 2
        writers[0].kill()
        writers[0].wait()
        write_private(path, b"mine")
        assert len(list(tmp_path.rglob("new"))) == 1
        writers[1].communicate(b"\n")
    assert (writers[1].returncode, path.read_bytes()) == (0, b"answers")
    assert {found.name for found in tmp_path.iterdir()} == {"f", ".f.mine"}


def test_synced_before_it_is_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The new file's data reaches the disk before its name, and the name before it returns."""
    diary: list[str] = []
    real_sync, real_replace = os.fsync, Path.replace

    def sync(fd: int) -> None:
        diary.append("folder" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file")
        real_sync(fd)

    def replace(one: Path, other: Path) -> None:
        diary.append("rename")
        real_replace(one, other)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "replace", replace)
    write_private(tmp_path / "f", b"x")
    assert diary == ["file", "rename", "folder"]


def test_a_file_replaced_while_locking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lock on a file that no longer bears the name is worth nothing: the new one is locked."""
    path = tmp_path / "f"
    path.write_bytes(b"old")
    real = files.try_lock

    def late(fd: int, **how: bool) -> bool:
        if path.exists() and path.read_bytes() == b"old":
            path.unlink()
            path.write_bytes(b"new")
        return real(fd, **how)

    monkeypatch.setattr(files, "try_lock", late)
    with LockedFile.open(path) as file:
        assert file.reader().read() == b"new"
        with pytest.raises(BusyError):
            LockedFile.open(path)


def test_no_trace(tmp_path: Path) -> None:
    """A file that opening created is removed again if nothing came of it, and only then."""
    path = tmp_path / "f"
    with LockedFile.open(path) as file:
        file.leave_no_trace()
    assert not path.exists()
    with LockedFile.open(path) as file:
        os.write(file.fd, b"x")
        file.leave_no_trace()
    with LockedFile.open(path) as file:
        file.truncate(0)
        file.leave_no_trace()
        assert file.size == 0
    assert path.exists()


def test_a_file_in_use_is_not_replaced(tmp_path: Path) -> None:
    """Any number may use it; who is to replace it must be alone, within a process too, and one
    user who ends does not end the others' use."""
    path = tmp_path / "f"
    with use_lock(path):
        with (
            use_lock(path),
            pytest.raises(BusyError, match=f"still uses {path}"),
            use_lock(path, alone=True),
        ):
            pass
        with pytest.raises(BusyError), use_lock(path, alone=True):
            pass
    with use_lock(path, alone=True):
        assert mode(tmp_path / "f.lock") == 0o600


@pytest.mark.parametrize(
    ("before", "after"), [(0o777, 0o700), (0o775, 0o700), (0o755, 0o755), (0o1777, 0o1777)]
)
def test_folders_that_others_could_write_are_mended(
    tmp_path: Path, before: int, after: int
) -> None:
    """Case 74: but not one that is sticky, as the system's own for temporary files is."""
    tmp_path.chmod(before)
    assert mend_folder(tmp_path) == (before != after)
    assert tmp_path.stat().st_mode & 0o7777 == after
    tmp_path.chmod(0o700)
