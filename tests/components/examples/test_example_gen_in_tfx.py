"""ExampleGen as a component of a TFX pipeline: driver, cache, readers of its output, a failed run."""

import json

import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow_data_validation as tfdv
from tfx import v1 as tfx

from mixrank import schemas as s
from mixrank.components.examples import build_example_gen

DATASET = s.Dataset(
    spec=s.FeatureSpec(
        name="tiny",
        user=s.Key("user"),
        item=s.Key("item"),
        time=s.EventTime("time"),
        scenario=s.Scenario("tab", values=(0, 1)),
        labels=(s.Label("click"),),
        features=(
            s.Categorical("item", group="item"),
            s.Action("action", flags=("click",)),
            s.TimeGap("gap"),
            s.History("past", of=("item", "action", "gap"), length=2, window="within"),
        ),
    ),
    source=s.LogSource(log=s.Table(files=("log.parquet",)), split=s.SplitByUserTail(valid=0, eval=0.2), max_bad_rows=0),
)


def write(folder, click=0):
    rows = {"user": [1] * 10 + [2] * 5, "item": list(range(15)), "time": list(range(15)), "tab": [1] * 15}
    pa.parquet.write_table(pa.table(rows | {"click": [click] + [0] * 14}), folder / "log.parquet")


def run(folder):
    examples = build_example_gen(DATASET, str(folder), num_shards=7)
    statistics = tfx.components.StatisticsGen(examples=examples.outputs["examples"])
    tfx.orchestration.LocalDagRunner().run(
        tfx.dsl.Pipeline(
            pipeline_name="tiny",
            pipeline_root=str(folder / "root"),
            components=[examples, statistics],
            enable_cache=True,
            metadata_connection_config=tfx.orchestration.metadata.sqlite_metadata_connection_config(
                str(folder / "metadata.db")
            ),
            beam_pipeline_args=["--runner=FnApiRunner"],
        )
    )


def runs(folder):
    return sorted(int(path.name) for path in (folder / "root" / "ExampleGen" / "examples").iterdir() if path.is_dir())


@pytest.mark.slow
def test_statistics_read_the_examples_and_the_cache_sees_a_changed_file(tmp_path):
    write(tmp_path)
    run(tmp_path)
    # Two users in seven shards: most files are empty, and must still be readable.
    for split, rows in (("train", 12), ("eval", 3)):
        (path,) = (tmp_path / "root" / "StatisticsGen").glob(f"statistics/*/Split-{split}/FeatureStats.pb")
        (found,) = tfdv.load_stats_binary(str(path)).datasets
        assert found.num_examples == rows
        assert {feature.path.step[0] for feature in found.features} == {
            "user", "item", "time", "tab", "click", "past_item", "past_action", "past_gap",
        }  # fmt: skip
    run(tmp_path)
    assert len(runs(tmp_path)) == 1, "nothing changed: served from the cache"

    write(tmp_path, click=7)
    with pytest.raises(ValueError, match="1 of 15 rows of table `log` are bad"):
        run(tmp_path)
    assert len(runs(tmp_path)) == 1, "the artifact of a failed run is removed"
    (letters,) = (tmp_path / "root" / "ExampleGen" / "examples").glob("dead_letter_*.jsonl")
    assert json.loads(letters.read_text())["column"] == "click"
