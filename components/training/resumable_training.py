"""Resumable training rounds: after each one validate, log, decide whether to stop, and save the state."""

from __future__ import annotations

import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import keras

from mixrank.components.training.settings import EarlyStopping
from mixrank.components.training.states import VARIABLES, read_variables, write_variables
from mixrank.components.training.training_step import TrainingStep
from mixrank.schemas.files import abandoned, remove, write_folder_atomically, write_text_atomically

REPORT_EVERY_S = 5.0
# Points of a round's training curve.
POINTS = 20
# Validation within a round may take this share of the time of the round's steps.
VALIDATION_SHARE = 0.1


def validations_within(trained_rows: int, validated_rows: int) -> int:
    """Number of validations that fit into a round before the one at its end.

    Scoring a row takes about a third of the time of training on it, which also needs a backward pass. The number
    depends only on the numbers of rows, so that two equal trainings log the same.

    Args:
        trained_rows: int >= 1. Rows of a round.
        validated_rows: int >= 1. Rows of the validation split.

    >>> validations_within(80_000, 10_000)
    2
    """
    return min(POINTS - 1, int(VALIDATION_SHARE * 3 * trained_rows / max(1, validated_rows)))


class Rounds(keras.callbacks.Callback):
    """Keras callback that turns `fit` epochs into resumable rounds.

    The state of a round (weights, optimizer, best weights so far, history) is written under a temporary name and
    renamed, so that a kill leaves either the old state or the new one. With several workers, all run the rounds
    and resume, but only the chief validates and writes.

    Args:
        directory: folder of the states; a later call with the same directory resumes from them.
        log: file that gets one JSON line per round, including the round's training curve.
        steps_per_round: int >= 1.
        steps_per_pass: int >= 1. Steps in one pass over the rows, to log the epoch.
        batch_size: int >= 1. Rows per step, to log samples per second; a state with another batch size is refused.
        validate: returns metric name -> value, or None where there is no validation split. It must leave weights and
            random states alone.
        validations_within: int from 0 to `POINTS` - 1. Evenly spaced points of a round's curve that are validated, the
            one at its end not counted.
        shown: validation metrics that the line of a round prints, beside that of `early_stopping`.
        early_stopping: when to stop, or None.
        chief: whether this worker writes.
        total: sums a number over the workers; with early stopping it is called after every round.
    """

    def __init__(
        self,
        *,
        directory: Path,
        log: Path,
        steps_per_round: int,
        steps_per_pass: int,
        batch_size: int,
        total_rounds: int,
        validate: Callable[[], dict[str, float]] | None = None,
        validations_within: int = 0,
        shown: Collection[str] = ("loss",),
        early_stopping: EarlyStopping | None = None,
        chief: bool = True,
        total: Callable[[float], float] = float,
    ) -> None:
        super().__init__()
        self.directory = directory
        self.log = log
        self.steps_per_round = steps_per_round
        self.steps_per_pass = steps_per_pass
        self.batch_size = batch_size
        self.total_rounds = total_rounds
        self.validate = validate
        self.shown = [*dict.fromkeys([*shown, *([early_stopping.metric] if early_stopping else [])])]
        self.early_stopping = early_stopping
        self.chief = chief
        self.total = total
        self.history: list[dict[str, Any]] = []
        self.best: float | None = None
        self.best_round = 0
        self.stopped = False
        steps = _evenly(steps_per_round, POINTS)
        validated = {steps[n - 1] for n in _evenly(len(steps), validations_within + 1)} if validate else set()
        # Step -> whether it is validated.
        self._points = {step: step in validated for step in steps}
        self._curve: list[dict[str, Any]] = []
        # Step of the last point, and the sum of the losses up to that step.
        self._summed = (0, 0.0)
        self._first_step = 0
        self._began = self._reported = time.monotonic()

    # -- resume ----------------------------------------------------------------------------------------------------

    def restore(self, model: TrainingStep) -> int:
        """Loads the newest state.

        Returns:
            Number of rounds already done, 0 if there is no state.

        Raises:
            ValueError: if the state comes from a training with another number of rows per step.
        """
        states = sorted(self.directory.glob("round-*[0-9]"))
        if not states:
            return 0
        state = json.loads((states[-1] / "state.json").read_text())
        if state["batch_size"] != self.batch_size:
            raise ValueError(
                f"{states[-1]} was trained with {state['batch_size']} rows per step, and now there would be "
                f"{self.batch_size}: use as many replicas as before, or remove {self.directory} to start again"
            )
        read_variables(states[-1] / VARIABLES, model.state)
        self.history = state["history"]
        self.best = state["best"]
        self.best_round = state["best_round"]
        self.stopped = state["stopped"]
        if not self.chief:
            return int(state["round"])
        self._write_log()
        print(f"  resuming after round {state['round']} of {self.total_rounds}", file=sys.stderr, flush=True)
        return int(state["round"])

    def restore_best(self, model: TrainingStep) -> None:
        """Restores the best weights, if early stopping kept some."""
        best = self.directory / f"best-{self.best_round:06d}"
        if self.early_stopping is not None and best.exists():
            read_variables(best, model.of_model)

    # -- Keras hooks -----------------------------------------------------------------------------------------------

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._began = self._reported = time.monotonic()
        self._curve = []
        self._summed = (0, 0.0)
        self._first_step = epoch * self.steps_per_round

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        if not self.chief:
            return
        step = batch + 1
        if step in self._points and step < self.steps_per_round:
            before = time.monotonic()
            self._add_point(step, (logs or {})["loss"], self._validate() if self._points[step] else {})
            # Samples per second count only training time.
            self._began += time.monotonic() - before
        now = time.monotonic()
        if now - self._reported < REPORT_EVERY_S:
            return
        self._reported = now
        rate = (batch + 1) * self.batch_size / (now - self._began)
        left = (self.steps_per_round - batch - 1) * self.batch_size / rate
        loss = float((logs or {}).get("loss", math.nan))
        print(
            f"  step {batch + 1}/{self.steps_per_round}  loss {loss:.4f}  {rate:,.0f} samples/s  {left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        seconds = time.monotonic() - self._began
        logs = dict(logs or {})
        loss = logs.pop("loss")
        if not math.isfinite(loss):
            raise ValueError(f"training loss is {loss} in round {epoch + 1}; lower the learning rate")
        if self.chief:
            step = (epoch + 1) * self.steps_per_round
            valid = self._validate()
            self._add_point(self.steps_per_round, loss, valid)
            self._record(
                {
                    "round": epoch + 1,
                    "step": step,
                    "samples": step * self.batch_size,
                    "epoch": step / self.steps_per_pass,
                    "loss": loss,
                    "metrics": logs,
                    "valid": valid,
                    "curve": self._curve,
                    "samples_per_second": self.steps_per_round * self.batch_size / seconds,
                    "seconds": seconds,
                }
            )
        if self.early_stopping is not None:
            self.stopped = self.model.stop_training = self.total(self.stopped) > 0

    # -- details ---------------------------------------------------------------------------------------------------

    def _validate(self) -> dict[str, float]:
        return self.validate() if self.validate else {}

    def _add_point(self, step: int, mean: float, valid: dict[str, float]) -> None:
        """Adds the loss since the last point, computed from the round's mean so far, which Keras reports."""
        last, before = self._summed
        total = step * float(mean)
        self._summed = (step, total)
        loss = (total - before) / (step - last)
        self._curve.append({"samples": (self._first_step + step) * self.batch_size, "loss": loss, "valid": valid})

    def _record(self, entry: dict[str, Any]) -> None:
        self.history.append(entry)
        self._write_log()
        self._judge(entry)
        self._save(entry["round"])
        print(f"  {round_line(entry, self.total_rounds, self.shown)}", file=sys.stderr, flush=True)

    def _judge(self, entry: dict[str, Any]) -> None:
        rule = self.early_stopping
        if rule is None:
            return
        if rule.metric not in entry["valid"]:
            raise ValueError(
                f"`early_stopping.metric` is {rule.metric!r}, validation gives {', '.join(sorted(entry['valid']))}"
            )
        value = entry["valid"][rule.metric]
        gain = math.inf if self.best is None else (value - self.best) * (1 if rule.higher_is_better else -1)
        if gain > rule.min_delta:
            self.best, self.best_round = value, entry["round"]
            best = self.directory / f"best-{self.best_round:06d}"
            # A training that was killed before it wrote its state may have left one.
            if best.exists():
                remove(best)
            write_folder_atomically(best, lambda folder: write_variables(folder, self.model.of_model))
        elif entry["round"] - self.best_round >= rule.patience:
            self.stopped = True
            print(f"  stopping early: {rule.metric} was best in round {self.best_round}", file=sys.stderr, flush=True)

    def _save(self, done: int) -> None:
        state = {
            "round": done,
            "batch_size": self.batch_size,
            "history": self.history,
            "best": self.best,
            "best_round": self.best_round,
            "stopped": self.stopped,
        }

        def write(folder: Path) -> None:
            write_variables(folder / VARIABLES, self.model.state)
            (folder / "state.json").write_text(json.dumps(state))

        for folder in abandoned(self.directory):
            remove(folder)
        write_folder_atomically(self.directory / f"round-{done:06d}", write)
        for old in sorted(self.directory.glob("round-*[0-9]"))[:-1]:
            shutil.rmtree(old)
        for old in self.directory.glob("best-*[0-9]"):
            if old.name != f"best-{self.best_round:06d}":
                shutil.rmtree(old)

    def _write_log(self) -> None:
        lines = "".join(json.dumps(entry) + "\n" for entry in self.history)
        write_text_atomically(self.log, lines)


def round_line(entry: Mapping[str, Any], rounds: int, shown: Collection[str]) -> str:
    """A round in one line: training loss, some validation metrics where there are any, and speed.

    Args:
        entry: of the training log.
        rounds: number of all rounds.
        shown: names of validation metrics.

    >>> entry = {"round": 1, "loss": 0.7, "valid": {"loss": 0.6, "click.auc": 0.8}, "samples_per_second": 1234.5}
    >>> round_line(entry, 2, ["loss", "click.auc"])
    'round 1/2  loss 0.7000  validation loss 0.6000  click.auc 0.8000  1,234 samples/s'
    """
    valid = {"validation loss" if name == "loss" else name: entry["valid"][name] for name in shown if entry["valid"]}
    values = "".join(f"  {name} {value:.4f}" for name, value in {"loss": entry["loss"], **valid}.items())
    return f"round {entry['round']}/{rounds}{values}  {entry['samples_per_second']:,.0f} samples/s"


def _evenly(steps: int, points: int) -> list[int]:
    """`points` evenly spaced steps among 1, ..., steps, including the last."""
    points = min(steps, points)
    return [round(number * steps / points) for number in range(1, points + 1)]
