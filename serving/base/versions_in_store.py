"""Versions in an object store, which cannot rename: `saved_model.pb` comes last, and no server loads a folder without.

s3://bucket/models/movielens/
  1700000000/saved_model.pb ...     a version; never changed once its graph is there
  .1700000060.partial/owner         who writes version 1700000060; a second process is refused that number
  .1700000060.partial/model/...     its files, until all of them are there
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mixrank.schemas import stores
from mixrank.schemas.files import is_gone, owner
from mixrank.schemas.stores import check_url, is_url
from mixrank.serving.base.checksums import SUMS, check_sums, files_of
from mixrank.serving.base.model_versions import is_number, versions

GRAPHS = ("saved_model.pb", "saved_model.pbtxt")
DAY_S = 86_400.0


def stored_versions(base: str) -> list[int]:
    """Numbers of the whole versions below an address, smallest first."""
    return _whole(stores.files(base))


def newest(push_to: str) -> tuple[str, str | None]:
    """Number and folder or address of the newest version below a push folder; empty and None before the first."""
    if is_url(push_to):
        base = check_url(push_to, "`push_to`")
        found = {number: f"{base}/{number}" for number in stored_versions(base)}
    else:
        found = {number: str(folder) for number, folder in versions(Path(push_to)).items()}
    return (str(max(found)), found[max(found)]) if found else ("", None)


def publish_to_store(folder: Path, base: str) -> str:
    """Copies a version to a store, first beside its destination, then in the store to its number, the graph last.

    Args:
        folder: a local version with its sums.
        base: address of the folder of versions.

    Returns:
        The new version's address. It is that of the newest version where that is the same, as when a step is retried.

    Raises:
        ValueError: if the store refuses or cannot be reached; then there is no new version.
    """
    known = stored_versions(base)
    if known and _same(folder, newest := f"{base}/{known[-1]}"):
        return newest
    names = [*files_of(folder), SUMS]
    names.sort(key=lambda name: (name in GRAPHS, name))
    number = _claim(base)
    partial, target = _partial(base, number), f"{base}/{number}"
    try:
        for name in names:
            stores.upload(folder / name, f"{partial}/model/{name}")
        stores.move(f"{partial}/model", target, names)
    except BaseException:
        # Where the store is gone too, a later push sweeps.
        with suppress(ValueError):
            _remove(base, number, whole=number in stored_versions(base))
        raise
    stores.delete(partial)
    return target


def fetch_version(place: str, folder: Path) -> None:
    """Copies a version from a store.

    Raises:
        ValueError: if it is not as its sums say, or a name in it leads out of `folder`; names the file.
    """
    for name in stores.files(place):
        if {"", ".", ".."} & set(name.split("/")):
            raise ValueError(f"{place}/{name} has a name that leads out of its folder: remove it")
        stores.download(f"{place}/{name}", folder / name)
    if (folder / SUMS).is_file():
        check_sums(folder)


def sweep_store(base: str, say: Callable[[str], object], older_s: float = DAY_S) -> None:
    """Removes what pushes left unfinished: those of this machine that have ended, and what is a day old.

    Args:
        base: address of the folder of versions.
        say: called with a line for each removal and each failure.
        older_s: seconds after which a push of another machine counts as dead if none of its files came since.
    """
    found = stores.files(base)
    for number in {int(name.split(".")[1]) for name in found if name.startswith(".") and _is_partial(name)}:
        prefix = f".{number}.partial/"
        changed = max(about.changed for name, about in found.items() if name.startswith((prefix, f"{number}/")))
        try:
            who = stores.read(f"{base}/{prefix}owner").decode() if f"{prefix}owner" in found else ""
            if is_gone(who) or changed < time.time() - older_s:
                _remove(base, number, whole=number in _whole(found))
                say(f"removed what a push of version {number} left unfinished in {base}")
        except ValueError as error:
            say(f"warning: what a dead push left cannot be removed: {error}")


def _whole(names: dict[str, stores.Stored]) -> list[int]:
    folders = (name.split("/") for name in names)
    return sorted({int(parts[0]) for parts in folders if is_number(parts[0]) and parts[1:] in ([g] for g in GRAPHS)})


def _claim(base: str) -> int:
    """A number that no version has and no other process takes."""
    taken = [int(name) for name in stores.names(base) if is_number(name)]
    number = max([int(time.time()), *(other + 1 for other in taken)])
    while True:
        if stores.create(f"{_partial(base, number)}/owner", owner()):
            if str(number) not in stores.names(base):
                return number
            # Another process has finished it since.
            stores.delete(_partial(base, number))
        number += 1


def _remove(base: str, number: int, whole: bool) -> None:
    if not whole:
        stores.delete(f"{base}/{number}")
    # `owner` comes after `model/`, so that what is left of this can be removed too.
    stores.delete(_partial(base, number))


def _partial(base: str, number: int) -> str:
    return f"{base}/.{number}.partial"


def _is_partial(name: str) -> bool:
    number, _, rest = name.removeprefix(".").partition(".")
    return is_number(number) and rest.startswith("partial/")


def _same(folder: Path, place: str) -> bool:
    """Whether a stored version has the files and the sums of a local one."""
    theirs = stores.files(place)
    ours = {name: path.stat().st_size for name, path in (files_of(folder) | {SUMS: folder / SUMS}).items()}
    if ours != {name: about.size for name, about in theirs.items()}:
        return False
    return stores.read(f"{place}/{SUMS}") == (folder / SUMS).read_bytes()
