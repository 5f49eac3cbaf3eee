"""The step of a pipeline of days, inside its container: `python -m mixrank.pipeline.kubeflow.day_step ...`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Takes the new days, after a run where there is none yet.

    Args:
        arguments: --config, a config as JSON; --output, the folder of run folders; --data and --push-to; --until and
            --redo, a day or an empty text.
    """
    parser = argparse.ArgumentParser(prog="mixrank.pipeline.kubeflow.day_step")
    for name in ("config", "output", "data", "push-to", "until", "redo"):
        parser.add_argument(f"--{name}", required=True)
    given = parser.parse_args(arguments)
    days = [part for name in ("until", "redo") if (day := getattr(given, name)) for part in (f"--{name}", day)]
    config = {
        **json.loads(given.config),
        "output": given.output,
        "data": given.data,
        "push_to": given.push_to,
    }
    file = Path(tempfile.mkdtemp()) / "run.yaml"
    # JSON is YAML.
    file.write_text(json.dumps(config))
    # In place of this process, so that a signal to stop reaches the one that works.
    command = [sys.executable, "-m", "mixrank.pipeline.cli", "advance", str(file), "--start", *days]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main(sys.argv[1:])
