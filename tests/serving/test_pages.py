"""The Python of the serving pages works as it is written, against a server with a model of the pages' log."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from mixrank.schemas import FeatureSpec, datasets
from mixrank.serving import model_config
from mixrank.serving.dev_server import running
from mixrank.serving.export import read_golden
from mixrank.serving.export.signatures import request_columns, row_columns

DOCS = Path(__file__).parents[2] / "docs"
BASE = Path("runs/movielens/serving/movielens")
# The version that the pages wait for.
VERSION = 1795390254


def film_model(spec: FeatureSpec, folder: Path) -> None:
    """A SavedModel with the signatures of the log, whose click is a thousandth of the item's id."""

    def score(**columns: tf.Tensor) -> dict[str, tf.Tensor]:
        click = tf.cast(columns["item_id"], tf.float32)[:, tf.newaxis] / 1000.0
        return {"click": click, "like": 1.0 - click}

    model = tf.Module()
    takes = {"score_rows": row_columns(spec), "rank_candidates": request_columns(spec)}
    signatures = {name: tf.function(score).get_concrete_function(**columns) for name, columns in takes.items()}
    tf.saved_model.save(model, str(folder), signatures=signatures)
    (folder / "assets.extra").mkdir()
    (folder / "assets.extra" / "mixrank.json").write_text(json.dumps({"spec": spec.model_dump(mode="json")}))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Runs the Python of a page in a folder with the model, its server's addresses in place of the usual ones."""
    spec = datasets.load("movielens").spec
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("pages"))
        BASE.mkdir(parents=True)
        film_model(spec, BASE / str(VERSION))
        Path("rows.jsonl").write_text('{"age_band": "25_34", "user_id": 196, "item_id": 242}\n')
        config = model_config.new()
        model_config.pin(model_config.add(config, "movielens", str(BASE.absolute())), {VERSION}, {"stable": VERSION})
        model_config.write(Path("models.config"), config)
        with running(Path("models.config")) as server:

            def run(name: str, **found: Any) -> dict[str, Any]:
                text = (DOCS / name).read_text().replace("http://localhost:8501", server.rest_url)
                text = text.replace("localhost:8500", server.grpc_target)
                for snippet in re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
                    exec(snippet, found)
                return found

            yield run


def test_the_client_page_scores_and_ranks_over_both_interfaces(page):
    found = page("client.md")
    assert [row["click"] for row in found["scores"]] == pytest.approx([0.242, 0.302])
    assert [item["click"] for item in found["ranked"]] == pytest.approx([0.242, 0.302])
    assert [row["like"] for (row,) in found["answers"]] == pytest.approx([0.758, 0.698])


def test_the_serving_and_roll_out_pages_score_rows_and_write_golden_ones(page):
    found = page("serving.md")
    np.testing.assert_allclose(found["answer"]["click"][:, 0], [0.242, 0.302], rtol=1e-6)
    page("rollout.md", **found)
    assert [row.scores["click"] for row in read_golden(Path("golden.jsonl"))] == pytest.approx([0.242, 0.302])


def test_the_tutorial_and_the_server_page_work(page, capsys):
    assert page("tutorial.md")["scores"]["click"] == pytest.approx(0.242)
    page("dev-server.md")
    assert "http://127.0.0.1:" in capsys.readouterr().out
