"""A file or a folder is written whole or not at all, whenever the process is killed."""

from __future__ import annotations

import os
import signal
import stat
import sys

import pytest

from mixrank.schemas.files import leftovers, locked, write_atomically, write_folder_atomically

OLD, NEW = "old " * 5000, "new " * 5000


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "about.json"
    write_atomically(path, lambda temporary: temporary.write_text("first"))
    write_atomically(path, lambda temporary: temporary.write_text("second"))
    assert path.read_text() == "second"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_half_way_leaves_what_was_there(tmp_path):
    path = tmp_path / "about.json"
    path.write_text("before")

    def half(temporary):
        temporary.write_text("hal")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, half)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_lock_has_one_holder_who_is_named_to_the_others(tmp_path):
    path = tmp_path / "new" / "lock"

    def hold():
        return locked(path, lambda holder: f"held by {holder or 'nobody known'}")

    with hold(), pytest.raises(ValueError, match="held by nobody known"), hold():
        pass
    with hold() as file:
        file.write("me\n")
        file.flush()
        with pytest.raises(ValueError, match="held by me$"), hold():
            pass
    with hold() as file:
        assert path.read_text() == ""


def test_nothing_is_seen_under_the_name_before_the_end(tmp_path):
    path = tmp_path / "about.json"
    seen = []
    write_atomically(path, lambda temporary: (temporary.write_text("all"), seen.append(path.exists())))
    assert seen == [False]
    assert path.read_text() == "all"


def write_log(folder):
    (folder / "part").mkdir()
    (folder / "part" / "rows").write_text(NEW)
    (folder / "about").write_text(NEW)


def killed_at(number, work):
    """Runs `work` in a process that is killed at its step `number`; False if it has fewer.

    A step is anything that another process or a power cut could see: a file opened for writing, a folder made, a sync,
    a name changed or removed.
    """
    child = os.fork()
    if not child:
        left, changes = number, {"os.rename", "os.mkdir", "os.rmdir", "os.remove"}

        def step(*_):
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        def hook(event, arguments):
            if event in changes or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                step()

        try:
            os.fsync = step
            sys.addaudithook(hook)
            work()
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert os.waitstatus_to_exitcode(status) in (0, -signal.SIGKILL)
    return os.WIFSIGNALED(status)


def test_a_kill_at_any_step_leaves_the_old_file_or_the_new_one(tmp_path):
    number, seen = 0, []
    path = tmp_path / "about.json"
    path.write_text(OLD)
    while killed_at(number, lambda: write_atomically(path, lambda temporary: temporary.write_text(NEW))):
        assert path.read_text() in (OLD, NEW)
        seen.append(path.read_text())
        assert {*tmp_path.iterdir()} == {path, *leftovers(tmp_path, "about.json")}
        path.write_text(OLD)
        number += 1
    # Made, opened, synced, renamed, the temporary name looked for, the folder synced.
    assert seen == [OLD] * 4 + [NEW] * 2
    assert path.read_text() == NEW


def test_a_kill_at_any_step_leaves_no_folder_or_the_whole_one(tmp_path):
    number, seen = 0, []
    while True:
        folder = tmp_path / str(number) / "log"
        killed = killed_at(number, lambda folder=folder: write_folder_atomically(folder, write_log, mark="mine"))
        if folder.exists():
            assert (folder / "part" / "rows").read_text() == (folder / "about").read_text() == NEW
        left = leftovers(folder.parent, mark="mine")
        assert {*folder.parent.glob("*")} == {*left, *([folder] if folder.exists() else [])}
        if not killed:
            break
        seen.append(folder.exists())
        number += 1
    # The folder above, its own, one inside and two files, four syncs, renamed; the folder above is synced.
    assert seen == [False] * 10 + [True]
    assert folder.exists() and not left


def test_a_failure_leaves_no_folder(tmp_path):
    def half(folder):
        write_log(folder)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder_atomically(tmp_path / "log", half)
    assert not list(tmp_path.iterdir())


def test_an_empty_folder_is_filled_and_a_full_one_stays(tmp_path):
    (tmp_path / "log").mkdir()
    write_folder_atomically(tmp_path / "log", write_log)
    assert (tmp_path / "log" / "about").read_text() == NEW
    with pytest.raises(OSError, match="not empty"):
        write_folder_atomically(tmp_path / "log", lambda folder: (folder / "about").write_text(OLD))
    assert (tmp_path / "log" / "about").read_text() == NEW
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_two_writers_of_one_file_do_not_meet(tmp_path):
    path = tmp_path / "about.json"

    def slow(temporary):
        write_atomically(path, lambda other: other.write_text("other"))
        assert path.read_text() == "other" and temporary.read_text() == ""
        temporary.write_text("slow")

    write_atomically(path, slow)
    assert path.read_text() == "slow"


def test_a_file_has_the_rights_that_the_process_gives_its_files(tmp_path):
    plain, whole = tmp_path / "plain", tmp_path / "whole"
    plain.touch()
    write_atomically(whole, lambda temporary: temporary.write_text("all"))
    assert stat.S_IMODE(whole.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)
