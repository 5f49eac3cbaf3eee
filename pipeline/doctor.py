"""Checks whether this machine can run the pipeline: Python, packages, devices, memory, disk."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from typing import NamedTuple

PINNED = {
    "tfx": "1.16.0",
    "tensorflow": "2.16.2",
    "keras": "3.15.1",
    "apache-beam": "2.72.0",
}
MEMORY_GIB, DISK_GIB = 4, 2


class Finding(NamedTuple):
    """One check: what was found, whether it will do, and what to do if not."""

    check: str
    found: str
    ok: bool
    advice: str = ""


def examine() -> list[Finding]:
    """All checks, the cheap ones first."""
    return [_python(), _libc(), *_packages(), _memory(), _disk(), _tensorflow()]


def _python() -> Finding:
    version = platform.python_version()
    return Finding("Python", version, sys.version_info[:2] == (3, 11), "mixrank needs Python 3.11")


def _libc() -> Finding:
    name, version = platform.libc_ver()
    ok = name == "glibc" and tuple(map(int, version.split(".")[:2])) >= (2, 28)
    return Finding("C library", f"{name} {version}".strip() or "unknown", ok, "the TFX wheels need glibc 2.28 or newer")


def _packages() -> list[Finding]:
    findings = []
    for name, wanted in PINNED.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = "missing"
        findings.append(Finding(name, found, found == wanted, f"expected {wanted}: run `make install`"))
    return findings


def _memory() -> Finding:
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Finding("memory", f"{gib:.1f} GiB", gib >= MEMORY_GIB, f"a run needs about {MEMORY_GIB} GiB")


def _disk() -> Finding:
    gib = shutil.disk_usage(os.getcwd()).free / 2**30
    return Finding("free disk here", f"{gib:.1f} GiB", gib >= DISK_GIB, f"a run needs about {DISK_GIB} GiB")


def _tensorflow() -> Finding:
    try:
        import tensorflow as tf

        gpus = len(tf.config.list_physical_devices("GPU"))
    except Exception as error:
        return Finding("TensorFlow", f"{type(error).__name__}: {error}", False, "run `make install`")
    return Finding("devices", f"{gpus} GPUs, {os.cpu_count()} CPU cores", True)
