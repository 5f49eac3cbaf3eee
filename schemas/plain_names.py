"""Paths without the characters of patterns: TFX and TFMA take every path for a pattern."""

from __future__ import annotations

import glob
import hashlib
import os
import tempfile
from pathlib import Path


def plain(folder: Path | str) -> Path:
    """The folder itself, or a link to it if `*`, `?` or `[` is in its path; the same folder has the same link.

    Args:
        folder: its path.

    Raises:
        ValueError: if the folder for links belongs to somebody else.
    """
    if not glob.has_magic(str(folder)):
        return Path(folder)
    folder = Path(folder).absolute()
    links = _links()
    links.mkdir(mode=0o700, exist_ok=True)
    if links.is_symlink() or links.stat().st_uid != os.getuid():
        raise ValueError(f"{links} belongs to somebody else: set TMPDIR to a folder of yours, or rename {folder}")
    link = links / hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    if not link.is_symlink():
        link.symlink_to(folder, target_is_directory=True)
    return link


def behind(path: str | Path) -> Path:
    """The path without a link that `plain` made."""
    path = Path(path)
    if not path.is_relative_to(_links()):
        return path
    name, *inside = path.relative_to(_links()).parts
    return Path(os.readlink(_links() / name), *inside)


def _links() -> Path:
    return Path(tempfile.gettempdir()) / f"mixrank-{os.getuid()}"
