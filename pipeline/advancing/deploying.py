"""The newest day's version on a server: a trial beside the stable version, watched, then promoted or rolled back.

models.config says what is served, the roll-out's log what was decided. So a call that was killed anywhere, or that did
not reach the server, is taken up by the next one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mixrank.pipeline.advancing.day_record import DayRecord
from mixrank.pipeline.advancing.served_rows import rows_of
from mixrank.pipeline.config import DeploySettings, RunConfig
from mixrank.schemas import FeatureSpec
from mixrank.schemas.stores import is_url
from mixrank.serving.base import load_spec, versions
from mixrank.serving.client import Client, Row
from mixrank.serving.drift import PSI, Limits, score_findings
from mixrank.serving.rollout import BadVersion, Golden, Probes, RestServer, Rollout, watch

STABLE, CANARY = "stable", "canary"
SAY_EVERY_S = 10


@dataclass(frozen=True)
class Outcome:
    """What became of a version.

    Args:
        verdict: "nothing" if there was nothing to do; "undone" if the server could not be brought to it.
        version: its number; None without any.
        reasons: why it was not promoted.
    """

    verdict: Literal["promoted", "rolled back", "undone", "nothing"]
    version: int | None = None
    reasons: tuple[str, ...] = ()


def deploy_settings(config: RunConfig) -> DeploySettings:
    """The settings of `--deploy`.

    Raises:
        ValueError: if the config has none, or pushes to an object store.
    """
    if config.advance.deploy is None:
        raise ValueError(
            "--deploy needs the server's address: `advance: {deploy: {url: http://localhost:8501}}` in the config, or "
            "--set advance.deploy.url=http://localhost:8501"
        )
    if is_url(config.push_place):
        raise ValueError(
            f"--deploy needs a push folder on this machine, and versions go to {config.push_place}: set `push_to`"
        )
    return config.advance.deploy


def deploy_newest(
    config: RunConfig, spec: FeatureSpec, days: Sequence[DayRecord], folder: Path, say: Callable[[str], None]
) -> Outcome:
    """Puts the version of the newest day that was pushed on trial, and promotes it or rolls it back.

    Args:
        config: the run.
        spec: columns of a row.
        days: those that are done, ascending.
        folder: of the days.
        say: gets lines of progress.
    """
    from mixrank.components.judging import read_examples
    from mixrank.schemas.encode import decode
    from mixrank.serving.export import request_and_item

    pushed = [record for record in days if record.pushed is not None]
    if not pushed:
        return Outcome("nothing")
    newest = pushed[-1]

    def rows() -> list[Row]:
        examples = read_examples(str(rows_of(folder / newest.day) / "Split-train"), config.check_rows)
        parts = [request_and_item(spec, decode(spec, example)) for example in examples]
        return [request | item for request, item in parts]

    say(f"version {Path(str(newest.pushed)).name}, of {newest.day}:")
    trial = Trial(deploy_settings(config), Path(config.push_place), rows, say)
    return trial.deploy(int(Path(str(newest.pushed)).name))


@dataclass
class Trial:
    """Trials of versions on a server.

    Args:
        settings: the server, and what a version must keep.
        base: folder of the versions.
        rows: reads the rows to send, at least one.
        say: gets lines of progress.
    """

    settings: DeploySettings
    base: Path
    rows: Callable[[], Sequence[Row]]
    say: Callable[[str], None]

    @cached_property
    def server(self) -> RestServer:
        return RestServer(self.settings.url, self.settings.model or self.base.name)

    @cached_property
    def rollout(self) -> Rollout:
        return Rollout(
            self.base,
            config=Path(self.settings.models_config) if self.settings.models_config else None,
            name=self.settings.model,
            server=self.server,
            wait=self.settings.wait_seconds,
            say=lambda line: self.say(f"      {line}"),
        )

    def deploy(self, version: int) -> Outcome:
        """Brings a version to the server, from whatever state an earlier call has left.

        Args:
            version: its number.
        """
        try:
            return self._deploy(version)
        except ValueError as error:
            return Outcome("undone", version, (str(error),))

    def _deploy(self, version: int) -> Outcome:
        labels, decision = self.rollout.entry.labels, self.rollout.decision(version)
        stable, on_trial = labels.get(STABLE), labels.get(CANARY) == version
        if stable is not None and stable >= version:
            self.say(f"      version {stable} is stable")
            return Outcome("nothing", version)
        if decision and not on_trial:
            # Rolled back, or promoted and then taken back by hand.
            known = decision.get("reasons") or ["it has been taken back since"]
            self.say(f"      version {version} had its trial ({decision['verdict']}): {'; '.join(known)}")
            return Outcome("nothing", version)
        if not decision:
            # A server that is away is said before anything is changed.
            self.server.state(version)
            if not on_trial:
                try:
                    self.rollout.canary(version, golden=self._golden)
                except BadVersion as error:
                    return self._reject(version, str(error))
            numbers = self._watch(version, stable)
            self.server.state(version)
            self.rollout.decide(version, "rollback" if numbers["reasons"] else "promote", **numbers)
            decision = numbers
        if decision["reasons"]:
            self.rollout.rollback(trial=True)
            return Outcome("rolled back", version, tuple(decision["reasons"]))
        try:
            self.rollout.promote(version, golden=self._golden, keep=self.settings.keep_versions)
        except BadVersion as error:
            outcome = self._reject(version, str(error))
            self.rollout.rollback(trial=True)
            return outcome
        return Outcome("promoted", version)

    @property
    def _golden(self) -> Golden:
        return Golden(tolerance=self.settings.golden_tolerance)

    def _reject(self, version: int, reason: str) -> Outcome:
        self.rollout.decide(version, "rollback", reasons=[reason])
        return Outcome("rolled back", version, (reason,))

    def _watch(self, version: int, stable: int | None) -> dict[str, Any]:
        """The numbers of a decision; its `reasons` are against the version."""
        if stable is None:
            self.say("      no version is stable yet, so there is nothing to compare with")
            return {"reasons": []}
        settings, rows, found = self.settings, self.rows(), versions(self.base)
        self.say(f"      watching version {version} beside version {stable}: {settings.canary_seconds:g} s")
        began, said = time.monotonic(), 0

        def enough(probes: Mapping[str, Probes]) -> bool:
            nonlocal said
            passed = time.monotonic() - began
            if passed // SAY_EVERY_S > said:
                said = int(passed // SAY_EVERY_S)
                self.say(f"      {passed:.0f} s: {_shown(probes)}")
            return _more_errors(probes) > settings.max_errors

        with ExitStack() as held:
            clients = {
                label: held.enter_context(
                    Client(
                        settings.url,
                        self.server.name,
                        spec=load_spec(found[number]),
                        label=label,
                        retries=0,
                        unknown="drop",
                    )
                )
                for label, number in ((STABLE, stable), (CANARY, version))
            }
            probes = watch(
                clients,
                rows,
                seconds=settings.canary_seconds,
                per_second=settings.requests_per_second,
                rows_per_request=settings.rows_per_request,
                enough=enough,
            )
        if not probes[STABLE].scores:
            raise ValueError(f"the stable version answers nothing to compare with: {probes[STABLE].error}")
        drift = _drift(probes, settings.max_score_drift)
        self.say(f"      {_shown(probes)}; score drift {', '.join(f'{task} {psi:.3f}' for task, psi in drift.items())}")
        return {
            "reasons": _reasons(settings, probes, drift),
            "seconds": round(time.monotonic() - began, 1),
            "rows": len(rows),
            **{
                label: {"version": number, **probes[label].numbers()}
                for label, number in ((STABLE, stable), (CANARY, version))
            },
            "score_drift": {task: round(psi, 4) for task, psi in drift.items()},
        }


def _more_errors(probes: Mapping[str, Probes]) -> int:
    """What the server does to both is not the version's fault."""
    return probes[CANARY].errors - probes[STABLE].errors


def _drift(probes: Mapping[str, Probes], limit: float) -> dict[str, float]:
    """Task -> population stability index of the canary's scores, on the rows that both have scored."""
    both = sorted(set(probes[STABLE].scores) & set(probes[CANARY].scores))
    if not both:
        return {}
    frames = [pd.DataFrame([probes[label].scores[row] for row in both]) for label in (STABLE, CANARY)]
    tasks = [task for task in frames[0] if task in frames[1]]
    before, after = (frame.add_prefix("score_") for frame in frames)
    found = score_findings(before, after, tasks, Limits(psi=limit), min_rows=0)
    return {finding.feature: finding.value for finding in found if finding.measure == PSI}


def _reasons(settings: DeploySettings, probes: Mapping[str, Probes], drift: Mapping[str, float]) -> list[str]:
    canary, stable = probes[CANARY], probes[STABLE]
    found = []
    if _more_errors(probes) > settings.max_errors:
        found.append(
            f"{canary.errors} of {canary.requests} requests failed, {stable.errors} of the stable version's; "
            f"`max_errors` is {settings.max_errors}; the first: {canary.error}"
        )
    was, is_now = stable.latency(0.99), canary.latency(0.99)
    if was and is_now and is_now > settings.max_latency_ratio * was:
        found.append(
            f"latency (p99) is {is_now:.1f} ms, {was:.1f} ms of the stable version; "
            f"`max_latency_ratio` is {settings.max_latency_ratio:g}"
        )
    found += [
        f"scores of `{task}` have moved: PSI {psi:.3f}, `max_score_drift` is {settings.max_score_drift:g}"
        for task, psi in drift.items()
        if psi > settings.max_score_drift
    ]
    lost = {task for scores in stable.scores.values() for task in scores} - {
        task for scores in canary.scores.values() for task in scores
    }
    if lost and canary.scores:
        found.append(f"it answers no {', '.join(f'`{task}`' for task in sorted(lost))}, as the stable version does")
    return found


def _shown(probes: Mapping[str, Probes]) -> str:
    """`canary 50 requests, 0 errors, p50 3.1 ms, p99 9.0 ms; stable ...`."""
    said = []
    for label in (CANARY, STABLE):
        known = probes[label]
        timed = [
            f"p{share:.0f} {value:.1f} ms" for share in (50, 99) if (value := known.latency(share / 100)) is not None
        ]
        said.append(", ".join([f"{label} {known.requests} requests", f"{known.errors} errors", *timed]))
    return "; ".join(said)
