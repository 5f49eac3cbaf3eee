"""A run's choices are checked before anything runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mixrank.pipeline.config import SHIPPED, RunConfig, load_config
from mixrank.schemas import stores

SHIPPED_NAMES = sorted(path.stem for path in SHIPPED.glob("*.yaml"))


@pytest.fixture
def written(tmp_path):
    """A function that writes a config and returns its path."""

    def write(text):
        (tmp_path / "run.yaml").write_text(text)
        return str(tmp_path / "run.yaml")

    return write


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_a_shipped_config_names_a_dataset_and_a_model_that_exist(name):
    config = load_config(name)
    assert config.name == name
    assert config.load_dataset().spec.name == name
    text = (SHIPPED / f"{name}.yaml").read_text()
    assert text.startswith(f"# mixrank run {name}"), "a config begins with its command"


@pytest.mark.parametrize("name", SHIPPED_NAMES)
def test_the_model_of_a_shipped_config_can_be_built(name):
    from mixrank.layers.ranking import build_ranker
    from mixrank.schemas import Categorical, MultiCategorical

    config = load_config(name)
    spec = config.load_dataset().spec
    sizes = {f.name: 9 for f in spec.inputs if isinstance(f, Categorical | MultiCategorical)}
    model = build_ranker(spec, sizes, config.model.name, config.model.params, config.model.preset)
    assert set(model.output) == set(spec.tasks)


def test_overrides_reach_any_depth():
    config = load_config(
        "movielens",
        [
            "train.epochs=7",
            "train.optimizer.options={weight_decay: 0.5}",
            "model.params.dim=16",
            "train.early_stopping.metric=like.auc",
            "thresholds.min_auc.click=0.6",
            "output=/somewhere/else",
            "push_to=models",
        ],
    )
    assert config.train.epochs == 7
    assert config.train.optimizer.options == {"weight_decay": 0.5}
    assert config.train.optimizer.name == "adam", "what is not overridden stays"
    assert config.model.params == {"dim": 16}
    assert config.train.early_stopping.higher_is_better
    assert config.thresholds.root["min_auc"]["click"] == 0.6
    assert config.run_dir == Path("/somewhere/else/movielens")
    assert config.push_place == str(Path.cwd() / "models")


def test_addresses_of_stores_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = load_config("movielens", ["data=s3://logs/ml [v2]/", "output=gs://bucket/runs #1"])
    assert config.data_dir() == "s3://logs/ml [v2]"
    assert config.run_dir == tmp_path / "runs" / "gs" / "bucket" / "runs #1" / "movielens"
    assert config.push_place == "gs://bucket/runs #1/movielens/serving/movielens"
    config = load_config("movielens", ["output=gs://bucket/runs", "push_to=models"])
    assert config.push_place == str(tmp_path / "models")
    config = load_config("movielens", ["push_to=s3://bucket/models"])
    assert (config.push_place, config.run_dir) == ("s3://bucket/models", tmp_path / "runs" / "movielens")


@pytest.mark.slow
def test_a_place_that_is_not_there_is_refused_before_the_run(bucket, s3_options):
    given = ["--runner=FnApiRunner", *s3_options]
    places = {"data": f"{bucket}/log", "output": f"{bucket}/runs", "push_to": f"{bucket}/models"}
    config = load_config("movielens", [f"beam={given}"]).model_copy(update=places)
    config.open_stores()
    with pytest.raises(ValueError, match=f"{bucket}-no/models: there is no such bucket"):
        config.model_copy(update={"push_to": f"{bucket}-no/models"}).open_stores()


@pytest.mark.slow
def test_a_warm_start_from_a_store_takes_the_newest_version(bucket, tmp_path):
    places = {"push_to": f"{bucket}/models", "output": str(tmp_path)}
    config = load_config("movielens", ["train.warm_start=pushed"]).model_copy(update=places)
    assert config.warm_start_folder() is None
    for number in (3, 4):
        stores.create(f"{bucket}/models/{number}/saved_model.pb", f"graph {number}")
    folder = config.warm_start_folder()
    assert folder == str(tmp_path / "movielens" / "pushed" / "4") == config.warm_start_folder()
    assert Path(folder, "saved_model.pb").read_text() == "graph 4"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data=ftp://host/log", "data: `data` must be a local folder or begin with s3://, gs:// or hdfs://"),
        ("push_to=s3:///models", "push_to: `push_to` must name a bucket, as s3://BUCKET/FOLDER"),
        ("train.epoch=2", r"train: TrainSettings has no field `epoch`; did you mean `epochs`\?"),
        ("trian.epochs=2", r"RunConfig has no field `trian`; did you mean `train`\?"),
        ("train.epochs=0", "train.epochs: Input should be greater than or equal to 1, received 0"),
        ("train.epochs=many", "train.epochs: Input should be a valid integer.*, received 'many'"),
        ("train.optimizer.name=adm", r"train.optimizer.name: there is no optimizer `adm`; did you mean `adam`\?$"),
        ("train.splits=[train, vaild]", "train.splits.1: Input should be 'train' or 'valid', received 'vaild'"),
        ("model.name=hemx", r"there is no model `hemx`; did you mean `hemix`\?"),
        ("model.preset=tinny", r"hemix has no preset `tinny`; did you mean `tiny`\?"),
        ("model.params.num_layer=3", r"hemix has no parameter `num_layer`; did you mean `num_layers`\?"),
        ("model.params.dim=wide", "`dim` of hemix must be a valid int, received 'wide'"),
        ("thresholds.min_acu.click=0.5", r"thresholds: there is no bound `min_acu`; did you mean `min_auc`\?"),
        ("name=my run", "name: String should match pattern .*, received 'my run'"),
        ("beam=[runner=FnApiRunner]", "one option such as --runner=FnApiRunner, received 'runner=FnApiRunner'"),
        ("epochs", "--set takes key=value, received 'epochs'"),
        ("=3", "--set takes key=value, received '=3'"),
        ("name.first=x", "--set name.first=x: `name` is a value, not a section"),
    ],
)
def test_a_wrong_override_is_refused_by_name(override, message):
    with pytest.raises(ValueError, match=message):
        load_config("movielens", [override])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("dataset=movielns", r"there is no dataset `movielns`; did you mean `movielens`\?"),
        ("thresholds.max_log_loss.clik=1", r"`max_log_loss` names task `clik`; did you mean `click`\?"),
        ("thresholds.min_auc.click=.nan", "`min_auc` of task `click` must be a finite number"),
        (
            "train.early_stopping.metric=clik.auc",
            r"`early_stopping.metric` is 'clik.auc'; did you mean `click.auc`\?",
        ),
    ],
)
def test_what_only_the_dataset_can_judge_is_refused_before_the_run(override, message):
    with pytest.raises(ValueError, match=message):
        load_config("movielens", [override]).load_dataset()


def test_a_key_may_be_given_again_over_what_is_merged(written):
    text = """
name: films
dataset: movielens
data: data
compare:
  tuned:
    dlrm: {train: {optimizer: &slow {<<: &fast {name: adam, learning_rate: 0.1}, learning_rate: 0.01}}}
train:
  optimizer: {<<: *slow, schedule: cosine}
"""
    config = load_config(written(text))
    assert config.compare.tuned["dlrm"].train["optimizer"] == {"name": "adam", "learning_rate": 0.01}
    assert (config.train.optimizer.learning_rate, config.train.optimizer.schedule) == (0.01, "cosine")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [1", "run.yaml is not valid YAML"),
        ("name: films\ntrain:\n  epochs: 1\n  epochs: 2\n", "run.yaml .*`epochs` is given in line 3 and again"),
        ("- name", "run.yaml must hold key: value pairs, found list"),
        ("", "run.yaml must hold key: value pairs, found NoneType"),
        ("name: films", r"run.yaml: dataset: Field required\ndata: Field required"),
        ("name: films\nfolder: x", r"RunConfig has no field `folder`; expected one of `advance`"),
    ],
)
def test_a_broken_file_is_named(written, text, message):
    with pytest.raises(ValueError, match=message):
        load_config(written(text))


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("movielns", r"config movielns does not exist; did you mean `movielens`\?"),
        ("/nowhere/films.yaml", "config /nowhere/films.yaml does not exist$"),
    ],
)
def test_a_missing_file_is_named(reference, message):
    with pytest.raises(ValueError, match=message):
        load_config(reference)


def test_data_may_lie_inside_an_installed_package(tmp_path, monkeypatch):
    (tmp_path / "films_package" / "files").mkdir(parents=True)
    (tmp_path / "films_package" / "__init__.py").write_text("raise RuntimeError('must not be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    config = load_config("movielens", ["data='package:films_package/files'"])
    assert config.data_dir() == str(tmp_path / "films_package" / "files")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("package:no_such_package/files", "no package `no_such_package` is installed"),
        ("package:no.such/files", "no package `no.such` is installed"),
        ("package:json.tool/files", "no package `json.tool` is installed"),
        ("package:/files", "no package `` is installed"),
        (
            "package:pytest/nowhere",
            "must be a folder with the raw files .*; .*pytest/nowhere is not a folder",
        ),
        ("/nowhere", "must be a folder with the raw files of movielens; /nowhere is not a folder"),
    ],
)
def test_data_that_is_not_there_is_named(data, message):
    with pytest.raises(ValueError, match=message):
        load_config("movielens", [f"data='{data}'"]).data_dir()


def test_a_config_cannot_be_changed_and_survives_json():
    config = load_config("movielens", ["train.early_stopping.patience=3"])
    with pytest.raises(ValueError, match="frozen"):
        config.name = "other"
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_loading_a_config_needs_no_tensorflow():
    code = (
        "import sys; from mixrank.pipeline.config import load_config; load_config('kuairand').load_dataset(); "
        "assert not {'tensorflow', 'keras', 'tfx'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_slices_are_names_or_columns_with_edges():
    cut = "{column: video_duration, edges: [7000, 60000]}"
    config = load_config("kuairand", [f"slices=[tag, {cut}]"])
    assert [(each.column, each.edges) for each in config.slices] == [("tag", ()), ("video_duration", (7000, 60000))]
    assert type(config).model_validate_json(config.model_dump_json()) == config
    config.load_dataset()
    with pytest.raises(ValueError, match=r"slices.0.edges: `edges` of `slices` must ascend, received \(2.0, 1.0\)"):
        load_config("kuairand", ["slices=[{column: video_duration, edges: [2, 1]}]"])
    with pytest.raises(ValueError, match="`edges` of `slices` are for a Numeric or a history, not for `tag`"):
        load_config("kuairand", ["slices=[{column: tag, edges: [1]}]"]).load_dataset()


def test_side_files_are_found_in_the_data_folder_and_checked(tmp_path, monkeypatch):
    from mixrank.pipeline.checking import declarations

    (tmp_path / "shop.py").write_text(
        "from mixrank.schemas import Dataset, FeatureSpec, NumericLookup\n"
        "from mixrank.schemas.datasets.simulated import DATASET, SPEC\n"
        "price = NumericLookup('price', of='item_id', file='prices.csv', group='item')\n"
        "SPEC = FeatureSpec(**{**dict(SPEC), 'features': (*SPEC.features, price)})\n"
        "DATASET = Dataset(spec=SPEC, source=DATASET.source)\n"
    )
    config = load_config("simulated", [f"dataset={tmp_path / 'shop.py'}", f"data={tmp_path}"])
    with pytest.raises(ValueError, match="no file matches 'prices.csv'"):
        config.load_dataset()
    (tmp_path / "prices.csv").write_text("item_id,price\n7,2.5\n8,free\n")
    found = config.load_dataset().spec.get("price").found
    assert (found.path, found.rows) == (str(tmp_path / "prices.csv"), 2)
    # The log itself is not there.
    monkeypatch.setattr(declarations, "find_tables", lambda dataset, folder: {})
    with pytest.raises(ValueError, match=r"prices.csv, row 2: `price` .*, received 'free'"):
        declarations.check_declarations(config)
