"""Which of the pushed versions answers clients."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mixrank.schemas.stores import is_url

NEWEST = "newest"


@dataclass(frozen=True)
class Served:
    """What a push folder and its models.config say.

    Args:
        place: folder or address of the versions.
        labels: version -> its labels, such as `stable`; `newest` for the one that TensorFlow Serving loads where no
            models.config says otherwise.
        loaded: versions that servers load.
        versions: all that are there, newest first; of an address only the newest.
        notes: what a reader should know, one sentence each.
    """

    place: str
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    loaded: frozenset[str] = frozenset()
    versions: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def of(self, pushed: str | None) -> str:
        """What a pushed version is to servers, in words; "" if nothing.

        Args:
            pushed: its folder or address.
        """
        if pushed is None or not (version := version_of(pushed)) or version not in self.versions:
            return ""
        labels = self.labels.get(version, ())
        return ", ".join(labels) if labels else "loaded" if version in self.loaded else ""


def version_of(pushed: str) -> str:
    """Number of a pushed version, from its folder or address."""
    return pushed.rstrip("/").rpartition("/")[2]


def served_versions(place: str, models_config: Path | None = None, name: str | None = None) -> Served:
    """The state of a roll-out as its files have it; no server is asked.

    Args:
        place: folder or address of the pushed versions.
        models_config: models.config of the servers; the one beside the versions if None.
        name: the model's name in it; that of the folder if None.

    Raises:
        ValueError: if `models_config` is given and does not exist, or holds another model.
    """
    if models_config is not None and not models_config.is_file():
        raise ValueError(f"`models_config` is {models_config}, which is not a file")
    if is_url(place):
        return _in_store(place)
    folder = Path(place)
    if not folder.is_dir():
        return Served(place, notes=(f"{place} does not exist: no version was pushed, or it was moved",))
    from mixrank.serving.rollout import Rollout

    rollout = Rollout(folder, config=models_config, name=name)
    file = rollout.entry.path
    try:
        rows = rollout.status()
    except ValueError as error:
        return Served(place, notes=(str(error),))
    labels = {str(row.version): row.labels for row in rows if row.labels}
    loaded = frozenset(str(row.version) for row in rows if row.loaded)
    found = tuple(str(row.version) for row in rows)
    if rollout.entry.labels or rollout.entry.loaded:
        notes: tuple[str, ...] = (f"labels as in {file}",)
        missing = sorted({str(each) for each in rollout.entry.loaded} - set(found))
        if missing:
            notes += (f"{file} loads versions that are not in {place}: {', '.join(missing)}",)
        return Served(place, labels, loaded, found, notes)
    if models_config is not None and not rollout.entry.serves_latest:
        raise ValueError(f"{models_config} holds no model `{rollout.entry.name}`")
    return Served(
        place,
        dict.fromkeys(found[:1], (NEWEST,)),
        frozenset(found[:1]),
        found,
        ("no label is given out: TensorFlow Serving loads the newest version by itself",) if found else (),
    )


def _in_store(place: str) -> Served:
    from mixrank.serving.base import newest

    try:
        version, found = newest(place)
    except ValueError as error:
        return Served(place, notes=(str(error),))
    if found is None:
        return Served(place, notes=(f"{place} holds no version",))
    note = "the newest version in the store; what servers load of it is in their own models.config"
    return Served(place, {version: (NEWEST,)}, frozenset({version}), (version,), (note,))
