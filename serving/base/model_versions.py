"""Folders of numbered versions, as TensorFlow Serving watches them: a version appears whole or not at all.

movielens/
  1700000000/saved_model.pb ...    a version; never changed once it is there
  .1700000060.3f2a….partial/       a version that is being copied; no number, so no server looks at it
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixrank.schemas import FeatureSpec
from mixrank.schemas.files import abandoned, remove, write_folder_atomically
from mixrank.schemas.naming import readable
from mixrank.serving.base.checksums import SUMS, check_sums, files_of, write_sums

METADATA = "assets.extra/mixrank.json"


def versions(base: Path) -> dict[int, Path]:
    """Version -> its folder, smallest number first. Other names are ignored, as in TensorFlow Serving."""
    if not base.is_dir():
        return {}
    found = {int(path.name): path for path in base.iterdir() if is_version(path)}
    return dict(sorted(found.items()))


def is_version(path: Path) -> bool:
    """Whether a folder's name is a version number: only digits, below 2^63."""
    return is_number(path.name) and path.is_dir()


def check_saved_model(folder: Path) -> None:
    """Refuses an incomplete SavedModel, judged by the names and sizes of its files.

    Raises:
        ValueError: naming the file that is missing or empty.
    """
    graph = next((folder / name for name in ("saved_model.pb", "saved_model.pbtxt") if (folder / name).is_file()), None)
    if graph is None:
        raise ValueError(f"{folder} is not a SavedModel: it holds no saved_model.pb")
    if not graph.stat().st_size:
        raise ValueError(f"{folder} is not a SavedModel: {graph.name} is empty")
    variables = folder / "variables"
    if not variables.is_dir():
        return
    if not (variables / "variables.index").is_file():
        raise ValueError(f"{folder} is an incomplete SavedModel: variables/variables.index is missing")
    shards = sorted(variables.glob("variables.data-*-of-*"))
    wanted = int(shards[0].name.rpartition("-")[2]) if shards else 1
    if len(shards) != wanted:
        raise ValueError(
            f"{folder} is an incomplete SavedModel: it holds {len(shards)} of {wanted} variables/variables.data files"
        )


def next_version(base: Path) -> int:
    """The current Unix time, or one more than the largest number in the folder if that is larger."""
    taken = [int(path.name) for path in base.iterdir() if is_number(path.name)] if base.is_dir() else []
    return max([int(time.time()), *(number + 1 for number in taken)])


def publish(
    model: Path,
    base: Path,
    *,
    version: int | None = None,
    extra: Mapping[str, Path] | None = None,
    verified: bool = True,
) -> Path:
    """Copies a SavedModel to a temporary name beside its destination, writes it through to the disk and renames it.

    Args:
        model: SavedModel folder.
        base: folder of versions; made if it does not exist.
        version: number of the new version; `next_version` if left out.
        extra: path inside the version -> file to put there, over the model's own.
        verified: bool. Refuse a model that has SHA-256 sums and is not as they say. The version gets sums of its own.

    Returns:
        The new version's folder.

    Raises:
        ValueError: naming a link that leads out of `model`, something in it that is no file, or a file that is not
            as its sum says.
    """
    files = model_files(model)
    if verified and (model / SUMS).is_file():
        check_sums(model)
    version = next_version(base) if version is None else version
    target = base / str(version)

    def copy(temporary: Path) -> None:
        for name, file in {**files, **(extra or {})}.items():
            (temporary / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, temporary / name)
        write_sums(temporary)

    write_folder_atomically(target, copy)
    return target


def sweep(base: Path, say: Callable[[str], object], name: str = "*") -> None:
    """Removes what processes that are gone left unfinished in a folder; says what cannot be removed, and goes on.

    Args:
        base: folder of versions, or of other things that are written atomically.
        say: called with a line for each failure.
        name: final name of what to remove.
    """
    for path in abandoned(base, name):
        try:
            remove(path)
        except OSError as error:
            say(f"warning: what a dead process left cannot be removed: {readable(error)}")


def find_copy(model: Path, base: Path, extra: Mapping[str, Path] | None = None) -> int | None:
    """The newest version that is byte for byte what `publish` would make of the same arguments, or None."""
    wanted = {**model_files(model), **(extra or {})}
    return next((number for number, path in reversed(versions(base).items()) if _same(wanted, files_of(path))), None)


def describe(folder: Path) -> dict[str, Any]:
    """The `model` part of a version's mixrank.json; empty if there is none."""
    file = folder / METADATA
    return dict(json.loads(file.read_text()).get("model") or {}) if file.is_file() else {}


def model_files(model: Path) -> dict[str, Path]:
    """Name in a model -> file, of every file.

    Raises:
        ValueError: naming a link that leads out of the model, or something that is neither file nor folder.
    """
    root = model.resolve()
    for path in sorted(model.rglob("*")):
        # Unlike `resolve`, this has an end where links go round in a circle.
        target = Path(os.path.realpath(path))
        if path.is_symlink() and not target.is_relative_to(root):
            raise ValueError(
                f"{path} is a link to {target}, outside the model: replace it by what it leads to, "
                "if that belongs to the model"
            )
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is neither a file nor a folder: remove it from the model")
    return files_of(model)


def is_number(name: str) -> bool:
    """Whether a name is a version number: only digits, below 2^63."""
    return name.isascii() and name.isdigit() and int(name) < 2**63


def _same(ours: Mapping[str, Path], theirs: Mapping[str, Path]) -> bool:
    if set(ours) != set(theirs):
        return False
    sizes = {name: path.stat().st_size for name, path in ours.items()}
    if any(theirs[name].stat().st_size != size for name, size in sizes.items()):
        return False
    # Small files tell two exports apart; weights are read only if those agree.
    return all(_equal(ours[name], theirs[name]) for name in sorted(sizes, key=sizes.__getitem__))


def _equal(one: Path, other: Path, block: int = 1 << 20) -> bool:
    with one.open("rb") as left, other.open("rb") as right:
        while True:
            ours, theirs = left.read(block), right.read(block)
            if ours != theirs:
                return False
            if not ours:
                return True


def load_spec(folder: Path) -> FeatureSpec:
    """The feature spec of a version, or of the newest version in a folder of versions.

    Raises:
        ValueError: if there is none.
    """
    folder = find_version(folder)
    file = folder / METADATA
    if not file.is_file():
        raise ValueError(f"{folder} has no feature spec: it holds no {METADATA}")
    return FeatureSpec.model_validate(json.loads(file.read_text())["spec"])


def find_version(folder: Path) -> Path:
    """The folder of a model: itself, or the newest version in it.

    Raises:
        ValueError: if there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    found = versions(folder)
    return found[max(found)] if found else folder
