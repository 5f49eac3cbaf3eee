"""A file or a folder is written whole or not at all, whenever the process is killed."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import stat
import sys
import time

import pytest

from mixrank.schemas import files
from mixrank.schemas.files import (
    abandoned,
    leftovers,
    locked,
    remove,
    withdraw,
    write_atomically,
    write_folder_atomically,
    write_text_atomically,
)
from mixrank.schemas.naming import readable

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
    folder = tmp_path / "new"
    with locked(folder, "mixrank run"):
        named = rf"new is in use by `mixrank run`, process {os.getpid()} on \S+, since 20\S+\+00:00: ask them$"
        with pytest.raises(ValueError, match=named), locked(folder, "mixrank train", hint="ask them"):
            pass
    with locked(folder, "mixrank train"):
        assert "mixrank train" in (folder / ".lock").read_text()
        assert "mixrank run" not in (folder / ".lock").read_text()


def test_who_waits_for_a_lock_says_so_and_gets_it_from_the_dead(tmp_path):
    child = os.fork()
    if not child:
        with locked(tmp_path, "mixrank run"):
            (tmp_path / "held").touch()
            time.sleep(60)
        os._exit(1)
    while not (tmp_path / "held").exists():
        time.sleep(0.01)
    said = []

    def waiting(holder):
        said.append(holder)
        os.kill(child, signal.SIGKILL)

    with locked(tmp_path, "mixrank train", wait=waiting):
        assert "mixrank train" in (tmp_path / ".lock").read_text()
    assert len(said) == 1 and f"in use by `mixrank run`, process {child} on " in said[0]
    os.waitpid(child, 0)


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(file, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with pytest.raises(OSError) as caught, locked(tmp_path, "mixrank run"):
        pass
    assert readable(caught.value).startswith(
        f"`{tmp_path / '.lock'}`: no locks available: the file system has no locks"
    )


def test_a_link_planted_for_a_lock_is_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"symbolic links.*run/\.lock"), locked(tmp_path / "run", "mixrank run"):
        pass
    assert (tmp_path / "precious").read_text() == "precious"


def test_a_link_at_the_name_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_text("precious")
    (tmp_path / "about.json").symlink_to(tmp_path / "precious")
    write_text_atomically(tmp_path / "about.json", "new")
    assert (tmp_path / "precious").read_text() == "precious"
    assert (tmp_path / "about.json").read_text() == "new" and not (tmp_path / "about.json").is_symlink()


def test_a_taken_temporary_name_is_not_written_to(tmp_path, monkeypatch):
    (tmp_path / "precious").write_text("precious")
    monkeypatch.setattr(files.secrets, "token_hex", lambda count: "0" * 2 * count)
    taken = files._temporary(tmp_path / "about.json")
    taken.symlink_to(tmp_path / "precious")
    with pytest.raises(FileExistsError):
        write_text_atomically(tmp_path / "about.json", "new")
    assert (tmp_path / "precious").read_text() == "precious"


FAULTS = [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_disk_that_takes_nothing_is_named_and_nothing_appears(tmp_path, monkeypatch, fault):
    def refuse(handle):
        raise OSError(fault, os.strerror(fault))

    (tmp_path / "about.json").write_text("old")
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError) as caught:
        write_text_atomically(tmp_path / "about.json", "new")
    assert (caught.value.errno, caught.value.filename) == (fault, str(tmp_path / "about.json"))
    with pytest.raises(OSError) as caught:
        write_folder_atomically(tmp_path / "logs" / "log", write_log)
    assert (caught.value.errno, caught.value.filename) == (fault, str(tmp_path / "logs" / "log"))
    assert (tmp_path / "about.json").read_text() == "old"
    assert not leftovers(tmp_path) and not list((tmp_path / "logs").iterdir())
    monkeypatch.undo()
    write_text_atomically(tmp_path / "about.json", "new")
    write_folder_atomically(tmp_path / "logs" / "log", write_log)
    assert (tmp_path / "about.json").read_text() == "new" and (tmp_path / "logs" / "log" / "about").exists()


def test_a_folder_whose_name_does_not_reach_the_disk_is_taken_back(tmp_path, monkeypatch):
    left = 5

    def refuse_the_last(handle):
        nonlocal left
        left -= 1
        if not left:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", refuse_the_last)
    with pytest.raises(OSError, match="Input/output error"):
        write_folder_atomically(tmp_path / "log", write_log)
    assert not list(tmp_path.iterdir())


def write_long(folder):
    write_text_atomically(folder / "about.json", NEW)


def copy_long(folder):
    write_folder_atomically(folder / "copy", lambda temporary: shutil.copyfile(__file__, temporary / "file"))


@pytest.mark.parametrize(("write", "name"), [(write_long, "about.json"), (copy_long, "copy/file")])
def test_a_full_disk_is_named_by_the_file_that_was_to_be_written(tmp_path, write, name):
    """By the largest file that a process may write, as a disk of a few bytes can only be had with more rights."""
    child = os.fork()
    if not child:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
            write(tmp_path)
        except OSError as error:
            code = 0 if (error.errno, error.filename) == (errno.EFBIG, str(tmp_path / name)) else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not list(tmp_path.iterdir())


def test_two_processes_that_write_one_file_never_tear_it(tmp_path):
    path = tmp_path / "about.json"
    write_text_atomically(path, OLD)
    children = []
    for text in (OLD, NEW):
        child = os.fork()
        if not child:
            code = 1
            try:
                for _ in range(60):
                    write_text_atomically(path, text)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    done = []
    while len(done) < 2:
        assert path.read_text() in (OLD, NEW)
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in children:
            done.append(os.waitstatus_to_exitcode(status))
    assert done == [0, 0] and [each.name for each in tmp_path.iterdir()] == ["about.json"]


def test_what_the_living_write_is_not_abandoned(tmp_path):
    seen = []

    def write(temporary):
        seen.extend([leftovers(tmp_path), abandoned(tmp_path)])
        temporary.write_text("new")

    write_atomically(tmp_path / "about.json", write)
    assert len(seen[0]) == 1 and seen[1] == []
    child = os.fork()
    if not child:
        write_atomically(tmp_path / "about.json", lambda temporary: os.kill(os.getpid(), signal.SIGKILL))
    while not leftovers(tmp_path) or not abandoned(tmp_path):
        time.sleep(0.01)  # A zombie counts as dead.
    os.waitpid(child, 0)
    (left,) = abandoned(tmp_path, "about.json")
    assert abandoned(tmp_path, "other.json") == []
    remove(left)
    assert (tmp_path / "about.json").read_text() == "new" and not leftovers(tmp_path)


def test_a_number_that_another_process_has_now_is_that_of_the_dead(tmp_path):
    temporary = files._temporary(tmp_path / "about.json")
    start = f"-{files._start_of(os.getpid())}-"
    assert start in temporary.name
    temporary.with_name(temporary.name.replace(start, "-7-")).touch()
    temporary.with_name(temporary.name.replace(files._machine(), "01234567")).touch()
    temporary.with_name(".about.json.somebody.partial").touch()
    assert len(leftovers(tmp_path)) == 3
    assert [path.name for path in abandoned(tmp_path)] == [temporary.name.replace(start, "-7-")]


def test_links_are_taken_away_and_not_what_they_lead_to(tmp_path):
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "rows").write_text("rows")
    for take_away in (remove, withdraw):
        (tmp_path / "link").symlink_to(tmp_path / "precious")
        take_away(tmp_path / "link")
        assert [path.name for path in tmp_path.iterdir()] == ["precious"]
    withdraw(tmp_path / "precious")
    assert not list(tmp_path.iterdir())


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


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_no_folder_or_the_whole_one(tmp_path):
    number, seen = 0, []
    while True:
        folder = tmp_path / str(number) / "log"
        killed = killed_at(number, lambda folder=folder: write_folder_atomically(folder, write_log))
        if folder.exists():
            assert (folder / "part" / "rows").read_text() == (folder / "about").read_text() == NEW
        left = leftovers(folder.parent)
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
