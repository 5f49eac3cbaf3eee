"""The values, loss and link of a binary task stand in the tables of kinds and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest

from mixrank.components.baselines import TASK_BASELINES
from mixrank.components.calibration import TASK_CALIBRATIONS
from mixrank.components.metrics import Rows, find_metric
from mixrank.layers.task_kinds import TASK_KINDS, new_loss, predicted
from mixrank.pipeline.reports import TASK_REPORTS
from mixrank.schemas import Label
from mixrank.schemas.task_kinds import LABEL_KINDS
from mixrank.serving.drift import TASK_DRIFT

ROOT = Path(__file__).parents[1]
TABLES = {
    "schemas/task_kinds.py": LABEL_KINDS,
    "layers/task_kinds.py": TASK_KINDS,
    "serving/drift/task_kinds.py": TASK_DRIFT,
    "components/baselines/task_kinds.py": TASK_BASELINES,
    "components/calibration/task_kinds.py": TASK_CALIBRATIONS,
    "pipeline/reports/task_kinds.py": TASK_REPORTS,
}
STOREYS = ("schemas", "layers", "serving", "components", "pipeline")
VALUES = re.compile(r"\b0 or 1\b|\b0/1\b|neither 0 nor 1|\bin \((?:None, )?0, 1\)|BinaryCrossentropy|\bBCE\b")
LINK = re.compile(r"sigmoid", re.IGNORECASE)


def repetitions(root: Path) -> list[str]:
    """`file:line: text` of every line outside the tables that knows the values, the loss or the link of a kind."""
    found = []
    for file in sorted(path for storey in STOREYS for path in (root / storey).rglob("*.py")):
        name = file.relative_to(root).as_posix()
        # The simulated log is one of clicks; in layers a sigmoid is an activation, too.
        if name in TABLES or name.startswith("schemas/simulation/"):
            continue
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if VALUES.search(line) or (LINK.search(line) and not name.startswith("layers/")):
                found.append(f"{name}:{number}: {line.strip()}")
    return found


def test_no_file_outside_the_tables_knows_a_kind():
    assert repetitions(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line"),
    [
        ("schemas/new.py", "if value not in (0, 1):"),
        ("components/training/new.py", "loss = keras.losses.BinaryCrossentropy(from_logits=True)"),
        ("serving/export/new.py", "return tf.sigmoid(logits)"),
        ("layers/new.py", '"""labels: 0 or 1"""'),
    ],
)
def test_a_repetition_is_named_by_file_and_line(tmp_path, file, line):
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(f"import keras\n\n{line}\n")
    assert repetitions(tmp_path) == [f"{file}:3: {line}"]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("kind", LABEL_KINDS)
def test_every_table_has_a_row_for_every_kind(kind, table):
    assert kind in TABLES[table], f"{table} lacks a row for the kind `{kind}`"


def test_no_table_has_a_kind_that_labels_do_not_have():
    assert {kind for table in TABLES.values() for kind in table} == set(LABEL_KINDS)
    files = (path for storey in STOREYS for path in (ROOT / storey).rglob("task_kinds.py"))
    assert {path.relative_to(ROOT).as_posix() for path in files} == set(TABLES)


def test_a_wrong_kind_is_refused():
    with pytest.raises(ValueError, match="there is no kind of task `binry`; did you mean `binary`"):
        Label("click", kind="binry")


# A rank among rows of equal duration is nothing that label and prediction tell.
@pytest.mark.parametrize("kind", [name for name, kind in LABEL_KINDS.items() if not kind.by_duration])
def test_the_loss_metric_is_the_mean_of_the_loss(kind):
    rng = np.random.default_rng(6)
    label_kind, task = LABEL_KINDS[kind], TASK_KINDS[kind]
    label = Label("x", kind=kind, classes=(1, 2, 5) if label_kind.has_classes else ())
    labels = np.array([label.values.toy(*pair) for pair in rng.random((40, 2))])
    label.values.check("labels", labels.tolist())
    # Of an ordinal label they fall from level to level.
    logits = -np.sort(-rng.normal(size=(40, max(1, len(label.classes) - (len(label.logits) == 1)))).astype(np.float32))
    logits = logits if label.classes else logits[:, 0]
    answers = predicted(label, keras.ops.convert_to_tensor(logits), {})
    scores = np.stack([keras.ops.convert_to_numpy(answers[name]) for name in label.outputs], 1).astype(np.float64)
    scores = scores if label.classes else scores[:, 0]
    expected = float(new_loss(label)(labels.astype(np.float32)[:, None], logits if label.classes else logits[:, None]))
    got = find_metric(task.loss_metric).of_rows(Rows.of_answers(labels, scores, np.zeros(40, int), label.classes))
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("wrong", [2, -1, 0.5, float("nan")])
def test_a_binary_label_is_zero_or_one(wrong):
    LABEL_KINDS["binary"].check("label `click`", [0, 1, 1.0, True])
    with pytest.raises(ValueError, match=f"label `click` must be 0 or 1, received {wrong}"):
        LABEL_KINDS["binary"].check("label `click`", [0, wrong])
