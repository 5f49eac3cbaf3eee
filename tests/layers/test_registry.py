"""Models by name, before and after Keras is imported."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mixrank.layers import registry


def test_a_typo_is_answered_without_importing_keras():
    code = (
        "import sys\n"
        "from mixrank.layers import registry\n"
        "try:\n"
        "    registry.check('hemix', {'num_layer': 3})\n"
        "except ValueError as error:\n"
        "    print(error, 'keras' in sys.modules, 'tensorflow' in sys.modules)\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == "hemix has no parameter `num_layer`; did you mean `num_layers`? False False"


@pytest.mark.parametrize("name", registry.names())
def test_what_is_read_from_the_source_is_what_python_sees(name):
    model = registry.model(name)
    module = importlib.import_module(model.module)
    cls = registry.load_class(name)
    signature = inspect.signature(cls.__init__).parameters.values()
    expected = [(p.name, p.default) for p in signature if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert [(p.name, p.default) for p in model.parameters] == expected
    assert (model.title, model.arxiv) == (cls.title, cls.arxiv)
    assert model.presets == module.PRESETS
    assert all(parameter.description for parameter in model.parameters)


@pytest.mark.parametrize("name", registry.names())
def test_every_preset_passes_its_own_check(name):
    for preset in registry.presets(name):
        assert registry.check(name, preset=preset) == registry.presets(name)[preset]


def test_a_preset_is_overridden_by_parameters():
    values = registry.check("hemix", {"rank": 5, "tokenizer_units": [7, 9]}, "large")
    assert values["dim"] == 768 and values["rank"] == 5
    assert values["tokenizer_units"] == (7, 9)


def test_changing_a_returned_preset_changes_nothing():
    registry.presets("hemix")["small"]["dim"] = 1
    assert registry.presets("hemix")["small"]["dim"] == 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("hemixx",), "there is no model `hemixx`; did you mean `hemix`?"),
        (("hemix", {}, "smal"), "hemix has no preset `smal`; did you mean `small`?"),
        (("hemix", {"drop_out": 0.1}), "hemix has no parameter `drop_out`; did you mean `dropout`?"),
        (("hemix", {"num_layers": "3"}), "`num_layers` of hemix must be int, received '3'"),
        (("hemix", {"fixed_queries": 1}), "`fixed_queries` of hemix must be bool, received 1"),
        (("hemix", {"head_units": [4, 0.5]}), "`head_units` of hemix must be tuple[int, ...], received (4, 0.5)"),
        (("hemix", {"block": "mixer"}), "`block` of hemix must be Literal['heteromixer', 'rankmixer', 'transformer']"),
    ],
)
def test_what_cannot_be_is_named(arguments, message):
    with pytest.raises(ValueError) as error:
        registry.check(*arguments)
    assert message in str(error.value)


def test_build_returns_the_backbone_by_its_name():
    backbone = registry.build("hemix", {"dim": 32}, "tiny")
    assert (backbone.name, backbone.dim, backbone.num_layers) == ("hemix", 32, 2)


def test_the_model_of_the_documentation_works(arguments, check_backbone):
    page = (Path(__file__).parents[2] / "docs" / "add-a-model.md").read_text()
    (code,) = re.findall(r"```python\n(\"\"\"A plain network.*?)```", page, re.DOTALL)
    namespace: dict = {}
    exec(code, namespace)
    layer = check_backbone(namespace["Deep"], {"units": (5, 3), "pooling": "target"}, arguments)
    assert layer.width(layer.widths) == 3
