"""Values that become common get rows of their own, all others keep theirs, and no answer of the model changes."""

from __future__ import annotations

import shutil
from collections import Counter

import pandas as pd
import pytest
import tensorflow as tf
import tensorflow_transform as tft
from hypothesis import given, settings
from hypothesis import strategies as st

from mixrank.components.training import PREDICTIONS, PROGRESSIVE, STATE, ModelSettings, TrainSettings, train_model
from mixrank.components.training.states import INDEX, VARIABLES
from mixrank.components.vocabulary_growth import (
    GRAPH,
    SEEN,
    count_values,
    grow,
    grow_vocabularies,
    growing,
    read_growth,
    seen_until,
)
from mixrank.schemas import Cross, MultiCategorical, Vocab
from mixrank.schemas.arrow import lines_of, pa, pq, read_frame


def vocabulary(graph, name):
    file = tft.TFTransformOutput(str(graph)).vocabulary_file_by_name(name)
    with tf.io.gfile.GFile(file, "rb") as reader:
        return lines_of(reader.read()).to_pylist()


@pytest.fixture(scope="module")
def split(toy_data, tmp_path_factory):
    """A function that makes a folder of examples with one split of the toy rows, as if they were of a day."""

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        shutil.copytree(toy_data.examples / f"Split-{name}", folder / "Split-train")
        return folder

    return make


@pytest.mark.slow
def test_values_are_counted_as_transform_counts_them(toy_spec, toy_data, split):
    counted = count_values(split("train"), toy_spec)
    assert counted.keys() == growing(toy_spec).keys()
    kinds = {type(feature) for feature in toy_spec.looked_up if feature.name in counted}
    assert {MultiCategorical, Cross} < kinds
    for name, vocab in growing(toy_spec).items():
        counts = dict(zip(counted[name]["value"].to_pylist(), counted[name]["count"].to_pylist(), strict=True))
        common = sorted((-count, value) for value, count in counts.items() if count >= vocab.min_count)
        known = vocabulary(toy_data.graph, name)
        assert len(known) == min(len(common), vocab.max_size or len(common)) > 0
        # Of the last among equals, Transform may choose another one.
        assert [counts[value] for value in known] == [-count for count, _ in common[: len(known)]]


DAYS = st.lists(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 4)), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(DAYS, st.integers(1, 5), st.none() | st.integers(2, 6), st.integers(1, 3), st.sampled_from([None, 0, 1, 3]))
def test_rows_are_given_and_kept_as_a_plain_count_says(days, min_count, max_size, count_days, more_days):
    import tempfile
    from pathlib import Path

    reuse_days = None if more_days is None else count_days + more_days
    vocab = Vocab(min_count=min_count, max_size=max_size)
    known = pa.array([b"a", b"b"], pa.large_binary())
    rows, last = ["a", "b"], {"a": 0, "b": 0}
    with tempfile.TemporaryDirectory() as folder:
        before = None
        for today, counts in enumerate(days, start=1):
            table = pa.table(
                {
                    "value": pa.array([value.encode() for value in counts], pa.large_binary()),
                    "count": pa.array(list(counts.values()), pa.int64()),
                }
            )
            seen = seen_until(table, known, before, today, count_days)
            before = Path(folder) / f"{today}.parquet"
            pq.write_table(seen, before)
            known, growth = grow(known, vocab, seen, today, 0, count_days, reuse_days)
            # The same by hand.
            last |= dict.fromkeys(counts, today)
            window = sum((Counter(each) for each in days[max(0, today - count_days) : today]), Counter())
            waiting = [v for v in window if window[v] >= min_count and v not in rows]
            waiting.sort(key=lambda value: (-window[value], value))
            old = [] if reuse_days is None else [v for v in rows if today - last[v] >= reuse_days]
            old.sort(key=lambda value: (last[value], rows.index(value)))
            reused = list(zip(old, waiting, strict=False))
            for gone, new in reused:
                rows[rows.index(gone)] = new
            waiting = waiting[len(reused) :]
            room = len(waiting) if max_size is None else max(0, max_size - len(rows))
            rows += waiting[:room]
            assert known.to_pylist() == [value.encode() for value in rows]
            assert growth == (len(rows), len(waiting[:room]), len(reused), len(waiting[room:]))
            assert set(seen["value"].to_pylist()) <= {v.encode() for d in days[:today] for v in d}


@pytest.fixture(scope="module", params=[None, 2], ids=["new_rows", "rows_of_unseen_values"])
def grown(request, toy_spec, toy_data, split, tmp_path_factory):
    """Vocabularies after the rows of the evaluation split, where all values are common."""
    spec = toy_spec.model_copy(
        update={
            "features": tuple(
                feature.model_copy(update={"vocab": Vocab(min_count=1, oov=feature.vocab.oov)})
                if feature.name in growing(toy_spec)
                else feature
                for feature in toy_spec.features
            ),
        }
    )
    out = tmp_path_factory.mktemp("grown") / "vocabularies"
    day = {"count_days": 1, "reuse_days": request.param}
    # Two days before, values of other rows were seen.
    first = tmp_path_factory.mktemp("first") / "vocabularies"
    none = spec.model_copy(update={"features": toy_spec.features})
    grow_vocabularies(split("valid"), toy_data.graph, first, none, day="2022-04-03", before=None, **day)
    found = grow_vocabularies(split("eval"), toy_data.graph, out, spec, day="2022-04-05", before=first, **day)
    return spec, out, found


@pytest.mark.slow
def test_the_graph_of_the_day_knows_the_new_values_and_keeps_the_ids_of_the_others(grown, toy_data, split, tmp_path):
    spec, out, found = grown
    assert read_growth(out) == found
    added, reused = (sum(getattr(each, what) for each in found.values()) for what in ("added", "reused"))
    assert (added > 100, reused > 100) in [(True, False), (False, True)]
    for name in growing(spec):
        before, now = vocabulary(toy_data.graph, name), vocabulary(out / GRAPH, name)
        assert len(now) == found[name].known == len(before) + found[name].added
        changed = sum(a != b for a, b in zip(before, now, strict=False))
        assert changed == found[name].reused
        here = set(count_values(split("eval"), spec)[name]["value"].to_pylist())
        assert here <= set(now)
        assert (out / SEEN / f"{name}.parquet").is_file()
    # Nothing is written over, and nothing half.
    with pytest.raises(ValueError, match="no examples match"):
        grow_vocabularies(
            tmp_path, toy_data.graph, tmp_path / "out", spec, day="2022-04-05", before=None,
            count_days=1, reuse_days=None,
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_no_answer_changes_when_a_vocabulary_grows(grown, toy_data, small_model, split, tmp_path):
    from mixrank.components.day_rows import transform_day

    spec, out, found = grown
    for name, graph in {"before": toy_data.graph, "after": out / GRAPH}.items():
        transform_day(split("eval"), graph, tmp_path / name, spec)

    def train(name, rows, graph, state=None):
        pattern = str(tmp_path / rows / "Split-train" / "*")
        train_model(
            # A bias of places is that of the rows of one training.
            spec=spec.model_copy(update={"position": None}),
            model_settings=ModelSettings(**small_model),
            settings=TrainSettings(
                batch_size=50, replicas=1, jit_compile="off", keep_state=True, embedding_optimizer={"name": "adagrad"}
            ),
            patterns={"train": toy_data.patterns()["train"] if state is None else pattern, "eval": pattern},
            transform_output=tft.TFTransformOutput(str(graph)),
            checkpoints=tmp_path / name / "checkpoints",
            run_dir=tmp_path / name / "run",
            export_dir=None,
            state=state,
        )
        return tmp_path / name / "run"

    first = train("first", "before", toy_data.graph)
    second = train("second", "after", out / GRAPH, first / STATE)
    known, unknown = read_frame(first / PREDICTIONS), read_frame(second / PROGRESSIVE)
    assert known["score_click"].std() > 0.01
    pd.testing.assert_frame_equal(known, unknown, atol=1e-6)
    # New values learn apart from then on.
    assert (read_frame(second / PREDICTIONS)["score_click"] - unknown["score_click"]).abs().max() > 1e-3
    sizes = [slot_sizes(run) for run in (first, second)]
    assert sum(sizes[1]) - sum(sizes[0]) == sum(each.added for each in found.values())


def slot_sizes(run):
    """Rows of the first slot of every variable of tables."""
    import json

    index = json.loads((run / STATE / VARIABLES / INDEX).read_text())
    return [each["shape"][0] for each in index if each["name"].startswith("tables/") and each["name"].endswith("/0")]


def test_a_damaged_file_is_named(toy_spec, tmp_path):
    (tmp_path / "Split-train").mkdir()
    (tmp_path / "Split-train" / "rows.gz").write_bytes(b"\x1f\x8b no rows")
    with pytest.raises(ValueError, match=r"Split-train/rows\.gz is damaged"):
        count_values(tmp_path, toy_spec)
