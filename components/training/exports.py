"""Exported models and states of trainings on disk, found without TensorFlow."""

from __future__ import annotations

from pathlib import Path

from mixrank.serving.base import METADATA

# File of a state: what it is a state of.
ORIGIN = "origin.json"


def is_state(folder: Path) -> bool:
    """Whether a folder is the state of a training (`train.keep_state`)."""
    return (folder / ORIGIN).is_file()


def find_export(reference: str) -> Path:
    """The SavedModel at a path.

    Args:
        reference: an exported or pushed model, or a folder of numbered versions (the newest is used).

    Raises:
        ValueError: if there is no model with mixrank metadata in any of these places.
    """
    root = Path(reference)
    candidates = [root]
    versions = [path for path in root.glob("*") if path.name.isdigit()] if root.is_dir() else []
    candidates += sorted(versions, key=lambda path: int(path.name), reverse=True)[:1]
    for candidate in candidates:
        if (candidate / METADATA).is_file():
            return candidate
    raise ValueError(
        f"`warm_start`={reference} holds no model: expected {METADATA} in it or in a version, or {ORIGIN} of a state"
    )
