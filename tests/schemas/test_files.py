"""A file is written whole or not at all."""

from __future__ import annotations

import pytest

from mixrank.schemas.files import locked, write_atomically


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
