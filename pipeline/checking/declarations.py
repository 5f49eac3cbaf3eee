"""Everything that config, spec and model can know without reading a row."""

from __future__ import annotations

from mixrank.components.examples import find_tables
from mixrank.pipeline.config import RunConfig
from mixrank.schemas import Dataset
from mixrank.schemas.raw import read_side_file


def check_declarations(config: RunConfig) -> Dataset:
    """The dataset of a config, once everything that was declared fits together and the files are there.

    Raises:
        ValueError: for names that do not exist, a spec that the model cannot read, a missing folder, file or column, or
            a bad row of a side file.
    """
    dataset = config.load_dataset()
    config.open_stores()
    find_tables(dataset, config.data_dir())
    for feature in dataset.spec.side_files:
        read_side_file(dataset.spec, feature)
    return dataset
