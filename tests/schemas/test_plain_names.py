"""Folders whose names TFX would take for patterns."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from mixrank.schemas.plain_names import behind, plain


@pytest.fixture(autouse=True)
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_with_a_plain_name_is_itself(tmp_path):
    folder = tmp_path / "ä b #1 100%"
    assert plain(folder) == behind(folder) == folder


def test_a_folder_with_brackets_goes_by_a_link_that_stays(tmp_path):
    folder = tmp_path / "runs [v2]" / "films"
    link = plain(folder)
    folder.mkdir(parents=True)
    (link / "artifacts").mkdir()
    assert "[" not in str(link) and (folder / "artifacts").is_dir()
    assert plain(folder) == link != plain(tmp_path / "runs [v3]" / "films")
    assert behind(f"{link}/artifacts/Trainer") == folder / "artifacts" / "Trainer"


def test_links_in_a_folder_of_somebody_else_are_not_followed(tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    link = plain(tmp_path / "x[y]")
    link.unlink()
    link.parent.rmdir()
    link.parent.symlink_to(theirs)
    with pytest.raises(
        ValueError, match=r"belongs to somebody else: set TMPDIR to a folder of yours, or rename .*x\[y\]"
    ):
        plain(Path(tmp_path / "x[y]"))
