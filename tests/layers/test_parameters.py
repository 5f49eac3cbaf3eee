"""Every parameter of every model is read by a preset, a configuration, a comparison table or a page of results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from mixrank.layers import registry
from mixrank.pipeline.config.comparison_tables import SEARCH, SHIPPED

ROOT = Path(__file__).parents[2]


def _set_in(settings: Any) -> set[tuple[str, str]]:
    """(model, parameter) wherever a model's `params` stand in nested settings."""
    if isinstance(settings, list):
        return set().union(*map(_set_in, settings))
    if not isinstance(settings, dict):
        return set()
    found = set().union(*map(_set_in, settings.values()))
    if isinstance(settings.get("params"), dict) and "name" in settings:
        found |= {(settings["name"], key) for key in settings["params"]}
    return found


@pytest.fixture(scope="module")
def read() -> set[tuple[str, str]]:
    files = [SHIPPED, *(ROOT / "pipeline" / "configs").glob("*.yaml")]
    found = set().union(*(_set_in(yaml.safe_load(path.read_text())) for path in files))
    searched = {key.removeprefix("params.") for key in SEARCH if key.startswith("params.")}
    for name in registry.names():
        found |= {(name, key) for preset in registry.presets(name).values() for key in preset}
        found |= {(name, parameter.name) for parameter in registry.parameters(name) if parameter.name in searched}
    return found


@pytest.mark.parametrize("name", registry.names())
def test_every_parameter_has_a_reader(name, read):
    unread = [parameter.name for parameter in registry.parameters(name) if (name, parameter.name) not in read]
    assert not unread, "put it into a preset or a row of pipeline/config/comparison_tables.yaml, or delete it"
