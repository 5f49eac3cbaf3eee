"""RunConfig: everything a run may choose, from a YAML file and `--set` overrides."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from mixrank.components.gates import GateSettings, check_allowed
from mixrank.components.judging import Slice, Thresholds, check_slices, check_thresholds
from mixrank.components.training import PUSHED, ModelSettings, TrainSettings, find_export, is_state
from mixrank.layers import registry
from mixrank.pipeline.config.advance_settings import AdvanceSettings
from mixrank.pipeline.config.comparison_tables import CompareSettings
from mixrank.pipeline.config.kubeflow_settings import KubeflowSettings
from mixrank.pipeline.config.mlflow_settings import MlflowSettings
from mixrank.pipeline.named_secrets import check_options, resolve
from mixrank.pipeline.run_record import RunRecord, is_run
from mixrank.schemas import Dataset, datasets, stores
from mixrank.schemas.files import write_folder_atomically
from mixrank.schemas.naming import Declaration, nearest, readable
from mixrank.schemas.safe_text import shown
from mixrank.schemas.stores import check_url, is_url
from mixrank.serving.base import fetch_version, newest

SHIPPED = Path(__file__).parents[1] / "configs"


class BaselineSettings(Declaration):
    """Baselines of a run besides the additive one, which is always there.

    Args:
        boosted_trees: whether to grow boosted trees, the bar; they take minutes.
    """

    boosted_trees: bool = False


class RunConfig(Declaration):
    """One run of the pipeline.

    Args:
        name: name of the run; its folder is `output`/`name`, its pushed model goes by this name too.
        dataset: a name under `mixrank.schemas.datasets`, a dotted module, or the path of a .py file with a `DATASET`.
        data: folder with the raw files, here or at s3://, gs:// or hdfs://; `package:NAME/FOLDER` means a folder inside
            an installed package.
        output: folder of all runs. For an address in an object store a run works in a local folder and copies its
            results there in the end.
        push_to: folder or address of the pushed versions; `output`/`name`/serving/`name` if None.
        model: which architecture.
        train: how it is trained.
        thresholds: what it must reach to be pushed.
        gates: what stops a run before training or before the push, and what is allowed.
        slices: features and histories by whose values the report also judges, besides the scenario: names, or `column`
            and `edges` of a number or of a history's events.
        baselines: what the model is compared with, besides the additive baseline.
        shards: int >= 1 or None. User shards of ExampleGen; None chooses by the size of the log.
        check_rows: int >= 1. Evaluation rows that the model check sends through every signature.
        beam: options of every Beam pipeline. A secret is named: `--s3_secret_access_key=env:NAME` or `file:PATH`.
        kubeflow: what `mixrank compile` needs besides; a local run does not read it.
        advance: what `mixrank advance` needs besides; a run does not read it.
        mlflow: where runs and days are logged as well, or None.
        compare: what `mixrank compare` and `mixrank tune` need besides; a run does not read it.
    """

    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")
    dataset: str
    data: str
    output: str = "runs"
    push_to: str | None = None
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    thresholds: Thresholds = Thresholds()
    gates: GateSettings = GateSettings()
    slices: tuple[Annotated[Slice, BeforeValidator(Slice.of)], ...] = ()
    baselines: BaselineSettings = BaselineSettings()
    shards: int | None = Field(default=None, ge=1)
    check_rows: int = Field(default=512, ge=1)
    beam: tuple[str, ...] = ("--runner=FnApiRunner",)
    kubeflow: KubeflowSettings = KubeflowSettings()
    advance: AdvanceSettings = AdvanceSettings()
    mlflow: MlflowSettings | None = None
    compare: CompareSettings = CompareSettings()

    @field_validator("beam")
    @classmethod
    def _check_beam(cls, options: tuple[str, ...]) -> tuple[str, ...]:
        return check_options(options, "`beam`")

    @field_validator("data", "output", "push_to")
    @classmethod
    def _check_place(cls, place: str | None, info: ValidationInfo) -> str | None:
        return check_url(place, f"`{info.field_name}`") if is_url(place) else place

    @field_validator("model")
    @classmethod
    def _check_model(cls, model: ModelSettings) -> ModelSettings:
        registry.check(model.name, model.params, model.preset)
        if model.match_params is not None and not registry.model(model.name).scaled:
            raise ValueError(f"`match_params`: {model.name} has no parameters that scale with its size; remove it")
        return model

    @field_validator("train")
    @classmethod
    def _find_warm_start(cls, train: TrainSettings) -> TrainSettings:
        """A run folder stands for the model that it exported."""
        if train.warm_start in (None, PUSHED) or not is_run(Path(train.warm_start)):
            return train
        export = RunRecord.read(Path(train.warm_start)).export
        if export is None:
            raise ValueError(f"`warm_start`={train.warm_start} is a run without an exported model")
        return train.model_copy(update={"warm_start": str(export)})

    @property
    def run_dir(self) -> Path:
        """The run's folder on this machine; that of an `output` in an object store is below `runs/`."""
        output = Path("runs", *self.output.split("://")) if is_url(self.output) else Path(self.output)
        return output.absolute() / self.name

    @property
    def push_place(self) -> str:
        """Folder or address of the pushed versions."""
        if is_url(self.push_to or self.output):
            return self.push_to or f"{self.output}/{self.name}/serving/{self.name}"
        return str(Path(self.push_to).absolute() if self.push_to else self.run_dir / "serving" / self.name)

    def warm_start_folder(self) -> str | None:
        """Folder that `train.warm_start` refers to: for `pushed`, the newest version, or None while there is none."""
        if self.train.warm_start != PUSHED:
            return self.train.warm_start
        number, place = newest(self.push_place)
        if place is None or not is_url(place):
            return place
        copy = self.run_dir / "pushed" / number
        if not copy.is_dir():
            write_folder_atomically(copy, lambda folder: fetch_version(place, folder))
        return str(copy)

    def open_stores(self) -> None:
        """Takes the keys of object stores from `beam`, and refuses addresses that cannot be reached.

        Raises:
            ValueError: naming the address, or a secret that is not there.
        """
        places = {place for place in (self.data, self.output, self.push_place) if is_url(place)}
        if places:
            stores.configure(resolve(self.beam))
        for place in sorted(places):
            stores.names(place)

    def load_dataset(self) -> Dataset:
        """The dataset's declaration.

        Raises:
            ValueError: if it is not found; if thresholds, slices, gates, early stopping, losses or splits name what it
                does not have; if the model or its heads cannot read its spec; if a side file is missing or has wrong
                keys; or if there is nothing to start warm from.
        """
        dataset = datasets.load(self.dataset)
        if dataset.spec.side_files:
            # Pandas and Arrow, which no other config needs to be read.
            from mixrank.schemas.raw import with_side_files

            self.open_stores()
            found = with_side_files(dataset.spec, self.data_dir())
            dataset = dataset.model_copy(update={"spec": found})
        spec = dataset.spec
        check_thresholds(self.thresholds, spec)
        check_slices(self.slices, spec)
        check_allowed(self.gates, dataset)
        self.train.check(spec, dataset.split_names)
        self.model.check(spec)
        begins_at = self.train.warm_start
        if begins_at not in (None, PUSHED) and not is_state(Path(begins_at)):
            find_export(begins_at)
        return dataset

    def data_dir(self) -> str:
        """Folder or address of the raw files.

        Raises:
            ValueError: if it does not exist, or the package is not installed.
        """
        if is_url(self.data):
            return self.data
        if self.data.startswith("package:"):
            package, _, inside = self.data.removeprefix("package:").partition("/")
            found = importlib.util.find_spec(package) if package.isidentifier() else None
            if found is None or not found.submodule_search_locations:
                raise ValueError(f"`data` is {self.data}, but no package `{package}` is installed")
            folder = Path(found.submodule_search_locations[0]) / inside
        else:
            folder = Path(self.data).expanduser().absolute()
        if not folder.is_dir():
            raise ValueError(f"`data` must be a folder with the raw files of {self.dataset}; {folder} is not a folder")
        return str(folder)


def load_config(reference: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Reads a config.

    Args:
        reference: path of a YAML file, or the name of a shipped one.
        overrides: `dotted.key=value`, the value read as YAML: `train.epochs=2`, `model.params.num_blocks=4`.

    Raises:
        ValueError: for a missing file, bad YAML, an unknown key or a wrong value; names the key and the nearest one.
    """
    path = Path(reference)
    if not path.suffix:
        path = SHIPPED / f"{reference}.yaml"
    if not path.is_file():
        shipped = [p.stem for p in SHIPPED.glob("*.yaml")]
        hint = nearest(reference, shipped) if not Path(reference).suffix else ""
        raise ValueError(f"config {reference} does not exist{hint}")
    try:
        values = yaml.load(path.read_text(), _OneValuePerKey)  # a safe loader
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not valid YAML: {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold key: value pairs, found {type(values).__name__}")
    for override in overrides:
        _set(values, override)
    try:
        config = RunConfig(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {readable(error)}") from None
    return config


class _OneValuePerKey(yaml.SafeLoader):
    """Refuses a key that is given twice; plain YAML silently keeps the last."""

    # Where a mapping is composed: when it is constructed, what it merges by `<<` may already be among its keys.
    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise yaml.YAMLError(f"`{key.value}` is given in line {lines[key.value]} and again in line {line}")
            lines[key.value] = line
        return node


def _set(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise ValueError(f"--set takes key=value, received {shown(override)}")
    *parents, last = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ValueError(f"--set {override}: `{parent}` is a value, not a section")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    # Where YAML sees a text, it would take ` #` for the beginning of a comment.
    values[last] = text if isinstance(value, str) and text[0] not in "'\"" else value
