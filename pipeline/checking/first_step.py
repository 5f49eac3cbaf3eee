"""The first step of a run: a check of a sample of the log, unless the same log has passed it before."""

from __future__ import annotations

import hashlib
import json

from rich.console import Console

from mixrank.components.examples import find_tables
from mixrank.pipeline.checking.log_check import check_log
from mixrank.pipeline.checking.text_report import print_remarks
from mixrank.pipeline.config import RunConfig
from mixrank.schemas import Dataset
from mixrank.schemas.files import write_text_atomically

PASSED = "check.json"


def check_before_run(config: RunConfig, dataset: Dataset, console: Console) -> bool:
    """Checks a sample of the log, and prints what is wrong with it.

    What passes is written down in the run's folder, with the files and the declaration that it holds for, so that the
    next run of the same log does not repeat it.

    Args:
        config: the run, whose folder exists.
        dataset: its dataset.
        console: where to.

    Returns:
        Whether the run may go on: nothing stops it, or only what the rows that were not read may change. The run's own
        gates look at every row.
    """
    passed, key = config.run_dir / PASSED, _key(config, dataset)
    if passed.is_file() and json.loads(passed.read_text()).get("key") == key:
        return True
    found = check_log(config, dataset)
    stops = [remark for remark in found.of_level("stop") if remark.certain]
    print_remarks([remark for remark in found.remarks if remark.level == "stop"], console)
    if stops:
        return False
    write_text_atomically(passed, json.dumps({"key": key, "check": found.model_dump(mode="json")}, indent=1))
    return True


def _key(config: RunConfig, dataset: Dataset) -> str:
    tables = find_tables(dataset, config.data_dir())
    files = [[name, file.path, file.stored, file.modified] for name, table in tables.items() for file in table.files]
    known = [dataset.model_dump(mode="json"), config.gates.model_dump(mode="json"), config.train.batch_size, files]
    return hashlib.sha256(json.dumps(known).encode()).hexdigest()
