"""Runs a pipeline on this machine and writes down what happened."""

from __future__ import annotations

import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from mixrank.pipeline.config import RunConfig
from mixrank.pipeline.run_record import Judgement, Rows, RunRecord
from mixrank.schemas import Dataset, FeatureSpec
from mixrank.schemas.plain_names import behind
from mixrank.schemas.safe_text import safe

LOG_FILE = "run.log"


def run_local(config: RunConfig, dataset: Dataset) -> RunRecord:
    """Runs the pipeline of a config in this process.

    Args:
        config: the run.
        dataset: its dataset.

    Returns:
        What `run.json` in the run folder holds.

    Raises:
        ValueError: if a component refuses its input; other errors as the components raise them.
    """
    run_dir = config.run_dir
    run_dir.mkdir(parents=True, exist_ok=True)
    started = datetime.now()
    with quiet(run_dir / LOG_FILE):
        from mixrank.components.training import prepare_devices

        # Logical devices must exist before any component touches TensorFlow.
        prepare_devices(config.train.replicas)
        from mixrank.pipeline.pipeline import create_pipeline, this_machine

        pipeline = create_pipeline(config, dataset, this_machine(config))
        names = [component.id for component in pipeline.components]
        with _component_progress(names) as seconds:
            run = _run(pipeline)
        record = _describe(config, dataset.spec, run, started, seconds)
    record.write(run_dir)
    return record


def _run(pipeline: Any) -> str:
    """Runs a pipeline and returns the id of the run, by which the metadata store finds what it made.

    The runner would make up an id itself and keep it.
    """
    from tfx import v1 as tfx
    from tfx.dsl.compiler import compiler, constants
    from tfx.orchestration.portable import runtime_parameter_utils

    # A clock that was set back must not give the id of an earlier run.
    run = f"{datetime.now().isoformat()}-{secrets.token_hex(4)}"
    compiled = compiler.Compiler().compile(pipeline)
    runtime_parameter_utils.substitute_runtime_parameter(compiled, {constants.PIPELINE_RUN_ID_PARAMETER_NAME: run})
    tfx.orchestration.LocalDagRunner().run_with_ir(compiled)
    return run


def _describe(
    config: RunConfig, spec: FeatureSpec, run: str, started: datetime, seconds: dict[str, float]
) -> RunRecord:
    """Collects what a run made or reused from the metadata store."""
    from tfx.orchestration import metadata

    from mixrank.components.gates import GateResult, stopping
    from mixrank.components.judging import REASONS, RESULTS, why_not_blessed
    from mixrank.components.validation import ALLOWED

    connection = metadata.sqlite_metadata_connection_config(str(config.run_dir / "metadata.db"))
    with metadata.Metadata(connection) as handle:
        outputs = _outputs(handle.store, run)
    evaluation, infra = outputs["Evaluator", "evaluation"].uri, outputs["ModelCheck", "blessing"]
    reasons = [] if _number(outputs["Evaluator", "blessing"], "blessed") else why_not_blessed(evaluation)
    verdicts = json.loads((Path(outputs["ModelGates", "blessing"].uri) / RESULTS).read_text())
    gates = tuple(map(GateResult.model_validate, verdicts))
    failed = [gate.finding for gate in gates if not gate.passed]
    stops = stopping(failed, config.gates.allow)
    reasons += [finding.message for finding in stops]
    allowed = json.loads((Path(outputs["ExampleValidator", "anomalies"].uri) / ALLOWED).read_text())
    allowed += [finding.problem for finding in failed if finding not in stops]
    if not _number(infra, "blessed"):
        reasons += json.loads((Path(infra.uri) / REASONS).read_text())
    pushed = outputs["Pusher", "pushed_model"].custom_properties["pushed_destination"].string_value
    return RunRecord(
        name=config.name,
        dataset=config.dataset,
        config=config.model_dump(mode="json"),
        spec=spec,
        splits=config.train.splits,
        started=started,
        finished=datetime.now(),
        seconds=seconds,
        rows=Rows(
            examples=outputs["ExampleGen", "examples"].uri,
            statistics=outputs["StatisticsGen", "statistics"].uri,
            transformed=outputs["Transform", "transformed_examples"].uri,
            transform_graph=outputs["Transform", "transform_graph"].uri,
        ),
        baselines=outputs["Baselines", "scores"].uri,
        model_run=outputs["Trainer", "model_run"].uri,
        export=Path(outputs["Trainer", "model"].uri) / "Format-Serving",
        judgement=Judgement(
            evaluation=evaluation,
            reasons=tuple(reasons),
            gates=gates,
            allowed=tuple(allowed),
            pushed=pushed or None,
        ),
    )


def _outputs(store: Any, run: str) -> dict[tuple[str, str], Any]:
    """(component, name of its output) -> the artifact that a run made or reused."""
    context = store.get_context_by_type_and_name("pipeline_run", run)
    found: dict[tuple[str, str], Any] = {}
    nodes = {c.id: c.name.rpartition(".")[2] for c in store.get_contexts_by_type("node")}
    for execution in store.get_executions_by_context(context.id):
        node = next((nodes[c.id] for c in store.get_contexts_by_execution(execution.id) if c.id in nodes), "")
        for event in store.get_events_by_execution_ids([execution.id]):
            if event.type == event.OUTPUT:
                (artifact,) = store.get_artifacts_by_id([event.artifact_id])
                artifact.uri = str(behind(artifact.uri))
                found[node, event.path.steps[0].key] = artifact
    return found


def _number(artifact: Any, name: str) -> int:
    return int(artifact.custom_properties[name].int_value)


@contextmanager
def _component_progress(names: list[str]) -> Iterator[dict[str, float]]:
    """Prints a line as each component begins and ends; yields component -> seconds (0 where the cache answered).

    It listens to TFX's log: should TFX word it differently, these lines and the seconds are missing, nothing else.
    """
    seconds: dict[str, float] = {}

    class Watch(logging.Handler):
        began = 0.0
        cached = False

        def emit(self, record: logging.LogRecord) -> None:
            message = record.getMessage()
            words = message.split()
            if message.startswith("Component ") and words[-1] == "running.":
                self.began, self.cached = time.monotonic(), False
                print(f"[{names.index(words[1]) + 1}/{len(names)}] {words[1]}", file=sys.stderr, flush=True)
            elif message.startswith("A cached execution"):
                self.cached = True
            elif message.startswith("Component ") and words[-1] == "finished.":
                took = time.monotonic() - self.began
                seconds[words[1]] = 0.0 if self.cached else round(took, 2)
                said = "unchanged, taken from the cache" if self.cached else f"{took:.1f} s"
                print(f"      {words[1]}: {said}", file=sys.stderr, flush=True)

    watch = Watch(logging.INFO)
    logger = logging.getLogger("absl")
    logger.addHandler(watch)
    try:
        yield seconds
    finally:
        logger.removeHandler(watch)


class SafeFormatter(logging.Formatter):
    """Lines of a log without secrets and control characters."""

    def format(self, record: logging.LogRecord) -> str:
        return safe(super().format(record))


@contextmanager
def quiet(log: Path) -> Iterator[None]:
    """Sends all library output to a file, native code's included; the terminal shows only our own lines."""
    file = log.open("w")
    handler = logging.StreamHandler(file)
    handler.setFormatter(SafeFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    logging.captureWarnings(True)
    import absl.logging

    # Absl's own handler would write to the terminal as well.
    absl.logging.use_absl_handler()
    absl.logging.set_verbosity(absl.logging.INFO)
    absl_logger = absl.logging.get_absl_logger()
    absl_handlers, absl_logger.handlers[:] = absl_logger.handlers[:], []
    absl_logger.propagate = True
    root.handlers[:] = [handler]
    try:
        with _native_stderr_to(file.fileno()):
            yield
    finally:
        root.handlers[:] = before
        root.setLevel(level)
        logging.captureWarnings(False)
        absl_logger.handlers[:] = absl_handlers
        file.close()


@contextmanager
def _native_stderr_to(target: int) -> Iterator[None]:
    """Points file descriptor 2 at a file, while `sys.stderr` keeps writing to the terminal."""
    terminal = sys.stderr
    kept = os.dup(2)
    try:
        sys.stderr = os.fdopen(os.dup(kept), "w", buffering=1)
        os.dup2(target, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        sys.stderr.close()
        sys.stderr = terminal
