"""The doctor names what is wrong with a machine, and what to do about it."""

from __future__ import annotations

import platform
import shutil
import sys
import types

import pytest
from typer.testing import CliRunner

from mixrank.pipeline import doctor
from mixrank.pipeline.cli import app


def finding(check):
    (found,) = [finding for finding in doctor.examine() if finding.check == check]
    return found


@pytest.fixture(autouse=True)
def no_tensorflow(monkeypatch):
    """Stands in for TensorFlow, whose import takes half a minute."""
    config = types.SimpleNamespace(list_physical_devices=lambda kind: ["a", "b"] if kind == "GPU" else [])
    monkeypatch.setitem(sys.modules, "tensorflow", types.SimpleNamespace(config=config))


def test_this_environment_has_the_pinned_packages():
    from importlib import metadata

    for name, wanted in doctor.PINNED.items():
        assert finding(name) == doctor.Finding(
            name, metadata.version(name), True, f"expected {wanted}: run `make install`"
        )


def test_a_missing_and_an_older_package_are_told_apart(monkeypatch):
    monkeypatch.setattr(doctor, "PINNED", {"no-such-package": "1.0", "pytest": "0.1"})
    missing, older = doctor._packages()
    assert (missing.found, missing.ok, missing.advice) == ("missing", False, "expected 1.0: run `make install`")
    assert (older.found, older.ok) == (pytest.__version__, False)


@pytest.mark.parametrize(
    ("libc", "ok", "found"),
    [
        (("glibc", "2.28"), True, "glibc 2.28"),
        (("glibc", "2.36"), True, "glibc 2.36"),
        (("glibc", "2.9"), False, "glibc 2.9"),
        (("", ""), False, "unknown"),
        (("musl", "1.2"), False, "musl 1.2"),
    ],
)
def test_versions_of_the_c_library_are_compared_as_numbers(monkeypatch, libc, ok, found):
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    assert (finding("C library").ok, finding("C library").found) == (ok, found)


@pytest.mark.parametrize(("free", "ok"), [(3 * 2**30, True), (2**30, False)])
def test_a_full_disk_is_found(monkeypatch, free, ok):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=free))
    assert finding("free disk here").ok is ok


def test_devices_are_counted():
    assert finding("devices").found.startswith("2 GPUs, ")


def test_tensorflow_that_does_not_load_is_a_finding(monkeypatch):
    def broken(kind):
        raise ImportError("libcuda.so is missing")

    monkeypatch.setattr(sys.modules["tensorflow"].config, "list_physical_devices", broken)
    assert finding("TensorFlow") == doctor.Finding(
        "TensorFlow", "ImportError: libcuda.so is missing", False, "run `make install`"
    )


def test_the_command_shows_advice_and_fails(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("memory", "1.0 GiB", False, "needs 4")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "1.0 GiB" in result.output and "needs 4" in result.output


def test_the_command_is_content_with_a_good_machine(monkeypatch):
    monkeypatch.setattr(doctor, "examine", lambda: [doctor.Finding("memory", "64.0 GiB", True, "needs 4")])
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0
    assert "needs 4" not in result.output
