"""Roll-out of model versions, step by step: a kill at any point leaves either the old or the new state.

The model's entry in models.config, which TensorFlow Serving polls, is the state: the versions to load and the labels

* `stable`, the version that answers clients,
* `canary`, the version on trial; the stable version if there is no trial,
* `previous`, the version that `rollback` returns to; it stays loaded.

models.config changes with one rename, a version folder appears with one rename; nothing else decides what is served.
The server accepts a label only on a loaded version. So a label moves in three writes: load the version beside
the others and wait, move the label and wait, unload the versions without a label.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mixrank.schemas.files import locked, withdraw, write_folder_atomically
from mixrank.schemas.naming import readable
from mixrank.serving import model_config
from mixrank.serving.base import check_saved_model, check_sums, find_copy, next_version, publish, sweep, versions
from mixrank.serving.client import ServingError
from mixrank.serving.export import GOLDEN_FILE, Scorer, check_golden, read_golden
from mixrank.serving.rollout.delta import find_base, is_made, read_manifest, write_version
from mixrank.serving.rollout.log import Journal
from mixrank.serving.rollout.model_server import AVAILABLE, BadVersion, Server, wait_available, wait_label

STABLE, CANARY, PREVIOUS = "stable", "canary", "previous"
LABELS = (STABLE, CANARY, PREVIOUS)
# Answers that say nothing about a version.
PASSING = ("UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
CONFIG = "models.config"
JOURNAL = ".rollout/journal.jsonl"


@dataclass(frozen=True)
class VersionStatus:
    """A line of `Rollout.status`.

    Args:
        version: its number.
        folder: its SavedModel.
        labels: its labels.
        pushed: when it was pushed, if known.
        loaded: whether models.config lets servers load it.
        served: its state on the server; None without a server.
    """

    version: int
    folder: Path
    labels: tuple[str, ...]
    pushed: datetime | None
    loaded: bool
    served: str | None


@dataclass(frozen=True)
class Golden:
    """Golden-row check that a version must pass before it serves users.

    Args:
        file: golden rows; those inside the version if None.
        tolerance: maximum difference of a score.
        scorer: scores rows with the version; None uses the server.
    """

    file: Path | None = None
    tolerance: float = 1e-4
    scorer: Scorer | None = None


class Rollout:
    """Roll-out commands on one model of a models.config.

    Args:
        base: the model's folder of versions.
        config: models.config; the one in `base` if left out. Several models may share one.
        name: the model's name; that of `base` if left out.
        base_path: `base` as the server sees it, for a models.config that lacks the model; `base` if left out.
        server: polled until versions are loaded and labels have moved; None only writes files.
        wait: seconds to wait for the server at each step.
        say: called with a line for each action.
        verified: bool. Refuse a version whose files are not as its SHA-256 sums say.
    """

    def __init__(
        self,
        base: Path,
        *,
        config: Path | None = None,
        name: str | None = None,
        base_path: str | None = None,
        server: Server | None = None,
        wait: float = 120.0,
        say: Callable[[str], object] = print,
        verified: bool = True,
    ) -> None:
        self.base = Path(os.path.abspath(base))
        config = Path(os.path.abspath(config)) if config else self.base / CONFIG
        self.entry = model_config.Entry(config, name or self.base.name, base_path or str(self.base))
        self.journal = Journal(self.base / JOURNAL, config=str(config), model=self.entry.name)
        self.server, self.wait, self.say, self.verified = server, wait, say, verified

    def status(self) -> list[VersionStatus]:
        """Every version, newest first. Takes no lock.

        Raises:
            ValueError: if `base` does not exist, or the server gives no answer.
        """
        if not self.base.is_dir():
            raise ValueError(f"{self.base} does not exist")
        found, labels, loaded = versions(self.base), self.entry.labels, self.entry.loaded
        if self.entry.serves_latest and found:
            loaded = {max(found)}
        records = (each for each in self.journal.records() if each["command"] == "push" and each["event"] == "begun")
        pushed = {each["version"]: datetime.fromisoformat(each["at"]) for each in records}
        return [
            VersionStatus(
                version=version,
                folder=found[version],
                labels=tuple(label for label in LABELS if labels.get(label) == version),
                pushed=pushed.get(version) or _time_of(version),
                loaded=version in loaded,
                served=None if self.server is None else self.server.state(version).name,
            )
            for version in sorted(found, reverse=True)
        ]

    def push(self, model: Path, *, golden: Path | None = None, keep: int | None = None) -> int:
        """Copies a SavedModel in as the next version. Nothing serves it yet.

        Args:
            model: a SavedModel folder, or a folder of versions (the newest is used).
            golden: golden rows to put into the version.
            keep: int >= 1. How many versions to keep; labelled and loaded versions are always kept.

        Returns:
            The version; an existing one if it has the same files.

        Raises:
            ValueError: if `model` is not a complete SavedModel, `golden` is not a golden file, or the lock is taken.
        """
        _check_keep(keep)
        model, extra = Path(model), {}
        if not (model / "saved_model.pb").exists() and (found := versions(model)):
            model = found[max(found)]
        check_saved_model(model)
        if golden is not None:
            read_golden(golden)
            extra[GOLDEN_FILE] = golden
        with self._command("push"):
            version = find_copy(model, self.base, extra)
            if version is not None:
                self.say(f"version {version} is that model already")
            else:
                self._adopt()
                version = next_version(self.base)
                with self.journal.step("push", version=version, source=str(model)):
                    publish(model, self.base, version=version, extra=extra, verified=self.verified)
                self.say(f"pushed version {version}; nothing serves it yet")
            self._prune(keep, version)
        return version

    def apply(self, delta: Path) -> int:
        """Makes a version from one that is there and a delta, under the number it has where the delta was made.

        Args:
            delta: file that `write_delta` has written.

        Returns:
            The version; nothing is done if it is there already.

        Raises:
            ValueError: if the delta is damaged or for another base, the number is another version's, or the lock is
                taken. Then there is no new version.
        """
        if not self.base.is_dir():
            raise ValueError(f"{self.base} does not exist")
        manifest = read_manifest(delta)
        version, target = manifest.version, self.base / str(manifest.version)
        with self._command("apply"):
            found = versions(self.base)
            if version in found:
                if not is_made(manifest, target):
                    raise ValueError(f"{target} exists, and is not the version that {delta} makes")
                check_sums(target, otherwise=", or remove it and apply the delta again")
                self.say(f"version {version} is that model already")
                return version
            base = find_base(manifest, found)
            self._adopt()
            with self.journal.step("push", version=version, source=str(delta)):
                write_folder_atomically(target, lambda folder: write_version(delta, manifest, base, folder))
            self.say(f"made version {version} from version {base.name} and the delta; nothing serves it yet")
        return version

    def canary(self, version: int | None = None, *, golden: Golden | None = Golden()) -> int:
        """Puts a version on trial: loads it beside the stable one and gives it the label `canary`.

        If it has golden rows and there is a way to score them, it must pass that check before it gets the label.

        Args:
            version: the newest if left out.
            golden: the check to pass; None checks nothing.

        Returns:
            The version.

        Raises:
            ValueError: if there is no such version, it is stable already, the server does not load it in time, or
                golden rows differ. models.config is then unchanged.
        """
        with self._command("canary"):
            version, folder = self._version(version)
            if version != max(versions(self.base)):
                self._adopt()
            labels = self.entry.labels
            if labels.get(STABLE) == version:
                raise ValueError(f"version {version} is stable already; push another one to try it")
            wanted = {**labels, CANARY: version}
            with self.journal.step("canary", version=version, labels=wanted):
                with self._loaded(version):
                    if golden and _golden_file(folder, golden) and (golden.scorer or self.server):
                        self._check(version, folder, golden)
                self._move(wanted)
            self.say(f"version {version} is the canary" + self._unasked())
        return version

    def promote(self, version: int | None = None, *, golden: Golden | None = Golden(), keep: int | None = None) -> int:
        """Makes the canary stable; the version that was stable becomes `previous` and stays loaded.

        Args:
            version: must be the canary's if given.
            golden: the check to pass; None promotes without golden rows.
            keep: as in `push`.

        Returns:
            The version.

        Raises:
            ValueError: if there is no canary, the server has not loaded it, or golden rows are missing or differ.
                Then nothing is changed.
        """
        _check_keep(keep)
        with self._command("promote"):
            labels = self.entry.labels
            found = labels.get(CANARY)
            if found is None:
                raise ValueError("there is no canary to promote; begin with: mixrank rollout canary")
            if version not in (None, found):
                raise ValueError(f"version {version} is not the canary, {found} is")
            if labels.get(STABLE) == found:
                self._move(labels)
                self.say(f"version {found} is stable already")
            else:
                before = {PREVIOUS: labels[STABLE]} if STABLE in labels else {}
                wanted = {STABLE: found, CANARY: found, **before}
                with self.journal.step("promote", version=found, labels=wanted):
                    folder = self._version(found)[1]
                    if self.server and (state := self.server.state(found)).name != AVAILABLE:
                        raise ValueError(f"the server is not ready: version {found} is {state.name} {state.message}")
                    if golden is not None:
                        self._check(found, folder, golden)
                    self._move(wanted)
                self.say(f"version {found} is stable" + self._unasked())
            self._prune(keep, found)
        return found

    def rollback(self, to: int | None = None, *, trial: bool = False) -> int:
        """Returns all labels to the previous stable version, and unloads the others.

        Args:
            to: a version to return to; the one labelled `previous` if left out.
            trial: bool. Only end the trial: `canary` returns to the stable version, which stays.

        Returns:
            The version that is stable now.

        Raises:
            ValueError: if there is nothing to return to, or the server does not load it in time.
        """
        if trial and to is not None:
            raise ValueError("`to` and `trial` exclude each other")
        with self._command("rollback") as repeated:
            labels = self.entry.labels
            if repeated and not trial and to is None and PREVIOUS not in labels:
                # Do not go back a second time: the last rollback may have died before it reported success.
                self._move(labels)
                self.say(
                    f"version {labels[STABLE]} is stable already, by the last rollback; to go further back, "
                    f"name a version: --to"
                )
                return labels[STABLE]
            if trial:
                target, wanted = _without_canary(labels)
            else:
                target = _previous(labels) if to is None else to
                wanted = {STABLE: target, CANARY: target}
            if wanted == labels:
                self._move(labels)
            else:
                self._version(target)
                with self.journal.step("rollback", version=target, labels=wanted):
                    with self._loaded(target):
                        pass
                    self._move(wanted)
            self.say(f"version {target} is stable" + self._unasked())
        return target

    def decide(self, version: int, verdict: str, reasons: Sequence[str], **numbers: Any) -> None:
        """Writes a decision about a version on trial into the log; `promote` and `rollback` carry it out.

        Args:
            version: the version.
            verdict: "promote" or "rollback".
            reasons: what speaks against the version.
            numbers: what it rests on, as JSON.
        """
        with self._command("decide"):
            about = {"verdict": verdict, "reasons": list(reasons), **numbers}
            self.journal.append("decide", "done", version=version, **about)

    def decision(self, version: int) -> dict[str, Any] | None:
        """The record of the newest decision about a version; None if there is none, or a trial began after it."""
        for record in reversed(self.journal.records()):
            if record.get("version") == version and self.journal.about.items() <= record.items():
                if record["command"] == "decide":
                    return record
                if record["command"] == "canary" and record["event"] in ("begun", "done"):
                    return None
        return None

    @contextmanager
    def _command(self, command: str) -> Iterator[bool]:
        """Takes the locks and cleans up after a killed command; yields whether the last one was the same and succeeded.

        One lock is that of the versions, whatever models.config a command is given; one that of models.config, which
        other models may share.
        A command that the server did not follow in time has succeeded as well: models.config holds its result.
        """
        config = self.entry.path
        with ExitStack() as held:
            for folder in {os.path.realpath(each): each for each in (self.base, config.parent)}.values():
                held.enter_context(locked(folder, f"mixrank rollout {command}, model {self.entry.name}"))
            sweep(self.base, self.say)
            sweep(config.parent, self.say, config.name)
            if (last := self.journal.last()) is None:
                yield False
                return
            pushed = last["command"] == "push" and last["version"] in versions(self.base)
            took = pushed or last.get("labels") == self.entry.labels
            if last["event"] == "begun":
                about = {key: last[key] for key in ("version", "labels") if key in last}
                self.journal.append(last["command"], "done" if took else "interrupted", **about)
            yield took and last["command"] == command

    @contextmanager
    def _loaded(self, version: int) -> Iterator[None]:
        """Loads a version beside the loaded ones; if the body fails, models.config is restored."""
        if self.server is None:
            yield
            return
        before = model_config.read(self.entry.path)
        try:
            self.entry.pin(self.entry.labels, {*self.entry.loaded, version})
            wait_available(self.server, version, seconds=self.wait)
            yield
        except BaseException:
            model_config.write(self.entry.path, before)
            raise

    def _move(self, labels: Mapping[str, int]) -> None:
        """Moves the labels, then unloads versions without a label once the server no longer sends them requests."""
        wanted = set(labels.values())
        if self.server is not None:
            self.entry.pin(labels, self.entry.loaded | wanted)
            for label, version in labels.items():
                wait_label(self.server, label, version, seconds=self.wait)
        self.entry.pin(labels, wanted)

    def _check(self, version: int, folder: Path, golden: Golden) -> None:
        file = _golden_file(folder, golden)
        if file is None:
            raise ValueError(
                f"version {version} has no golden rows to check: give some with --golden FILE, or say --unchecked"
            )
        scorer = golden.scorer
        if scorer is None:
            if self.server is None:
                raise ValueError("golden rows are scored by the server: give its --url, or say --unchecked")
            scorer = self.server.score
        rows = read_golden(file)
        try:
            worst = check_golden(rows, scorer, version=version, folder=folder, tolerance=golden.tolerance)
        except ServingError as error:
            if error.status in PASSING:
                raise
            raise BadVersion(f"version {version} does not score golden rows: {error}") from None
        except ValueError as error:
            raise BadVersion(str(error)) from None
        self.say(f"version {version} scores {len(rows)} golden rows as expected, off by at most {worst:.1g}")

    def _adopt(self) -> None:
        """Pins a model that served the latest version so far, so that a new version is not served automatically."""
        if self.entry.serves_latest and (found := versions(self.base)):
            newest = max(found)
            labels = {STABLE: newest, CANARY: newest}
            with self.journal.step("adopt", version=newest, labels=labels):
                self.entry.pin(labels, {newest})
            self.say(f"{self.entry.path} served the latest version; it is pinned to {newest}, which is stable")

    def _version(self, version: int | None) -> tuple[int, Path]:
        found = versions(self.base)
        if not found:
            raise ValueError(f"{self.base} holds no version; begin with: mixrank rollout push")
        version = max(found) if version is None else version
        if version not in found:
            raise ValueError(f"there is no version {version}; there are {', '.join(map(str, found))}")
        check_saved_model(found[version])
        if self.verified:
            check_sums(found[version])
        return version, found[version]

    def _prune(self, keep: int | None, *spared: int) -> None:
        """Removes old versions, but never one that has a label, is loaded, or is `spared`.

        Every models.config that a command on these versions was given counts.
        """
        if keep is None:
            return
        if not self.entry.loaded:
            self.say(f"nothing is removed: {self.entry.path} does not say which versions are in use")
            return
        found = versions(self.base)
        places = {(each["config"], each["model"]) for each in self.journal.records()}
        entries = [model_config.Entry(Path(config), model, str(self.base)) for config, model in places]
        used = [{*entry.labels.values(), *entry.loaded} for entry in (self.entry, *entries)]
        stays = {*sorted(found)[-keep:], *spared}.union(*used)
        for version in sorted(set(found) - stays):
            try:
                withdraw(found[version])
            except OSError as error:
                self.say(f"warning: version {version} cannot be removed: {readable(error)}")
            else:
                self.say(f"removed version {version}")

    def _unasked(self) -> str:
        return "" if self.server else " in models.config; no server was asked whether it follows"


def _golden_file(folder: Path, golden: Golden) -> Path | None:
    if golden.file is not None:
        return golden.file
    return folder / GOLDEN_FILE if (folder / GOLDEN_FILE).is_file() else None


def _previous(labels: Mapping[str, int]) -> int:
    if PREVIOUS in labels:
        return labels[PREVIOUS]
    on_trial = STABLE in labels and labels.get(CANARY, labels[STABLE]) != labels[STABLE]
    hint = "to end the canary's trial: --canary" if on_trial else "name a version: --to VERSION"
    raise ValueError(f"there is no previous stable version to return to; {hint}")


def _without_canary(labels: Mapping[str, int]) -> tuple[int, dict[str, int]]:
    if STABLE not in labels:
        raise ValueError("no version is stable yet, so the canary has nothing to return to")
    return labels[STABLE], {**labels, CANARY: labels[STABLE]}


def _time_of(version: int) -> datetime | None:
    """The Unix time that a version's number encodes, if it looks like one."""
    return datetime.fromtimestamp(version, UTC) if 1e9 < version < 4e9 else None


def _check_keep(keep: int | None) -> None:
    if keep is not None and keep < 1:
        raise ValueError(f"`keep` must be at least 1, received {keep}")
