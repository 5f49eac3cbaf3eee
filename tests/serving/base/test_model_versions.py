"""A version appears whole or not at all."""

from __future__ import annotations

import shutil
import time

import pytest

from mixrank.serving.base import publish


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "data").write_bytes(b"weights")
    return folder


def test_a_version_is_a_unix_time_above_every_other(model, tmp_path):
    base = tmp_path / "serving"
    first = publish(model, base)
    assert abs(int(first.name) - time.time()) < 60
    (base / "99999999999").mkdir()
    assert publish(model, base).name == "100000000000"
    assert (first / "variables" / "data").read_bytes() == b"weights"


def test_a_push_that_dies_leaves_no_version(model, tmp_path, monkeypatch):
    base = tmp_path / "serving"
    before = publish(model, base)

    def die(source, target):
        target.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(shutil, "copyfile", die)
    with pytest.raises(OSError, match="disk full"):
        publish(model, base)
    assert [path for path in base.iterdir() if path.name.isdigit()] == [before]


def test_a_number_that_is_taken_by_a_file_or_a_broken_link_is_passed_over(model, tmp_path):
    base = tmp_path / "serving"
    base.mkdir()
    (base / "99999999998").touch()
    (base / "99999999999").symlink_to(tmp_path / "nowhere")
    assert publish(model, base).name == "100000000000"
