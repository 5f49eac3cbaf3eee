"""Models by name, before and after Keras is imported."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from mixrank.layers import registry
from mixrank.layers.ranking import field_names
from mixrank.schemas import Categorical, EventTime, FeatureSpec, History, Key, Label, Scenario


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
        (("hemix", {"num_layers": "3"}), "`num_layers` of hemix must be a valid int, received '3'"),
        (("hemix", {"fixed_queries": 1}), "`fixed_queries` of hemix must be a valid bool, received 1"),
        (("hemix", {"head_units": [4, 0.5]}), "`head_units` of hemix must all be a valid int, received (4, 0.5)"),
        (("hemix", {"block": "mixer"}), "`block` of hemix must be heteromixer, rankmixer or transformer"),
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


MODEL = '''
from typing import Literal

from mixrank.layers import FieldBackbone, register

PRESETS: dict = {"tiny": {"dim": 4}}
SCALED = {"dim": (2,)}


@register(title="A title", arxiv="1234.5678")
class Outside(FieldBackbone):
    """A model.

    Args:
        dim: width.
        kind: one of two.
    """

    def __init__(self, *, dim: int = 8, kind: Literal["a", "b"] = "a", **kwargs) -> None:
        super().__init__(**kwargs)
        self.dim = dim
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """Writes a model into a file, and into a package that can be imported; returns the file's path."""

    def write(text: str = MODEL, name: str = "outside_model") -> str:
        file = tmp_path / f"{name}.py"
        file.write_text(text)
        package = tmp_path / "path" / "outside_package"
        package.mkdir(parents=True, exist_ok=True)
        (package / "__init__.py").write_text("raise RuntimeError('reading a model imports its package')\n")
        (package / "models.py").write_text(text)
        return str(file)

    monkeypatch.syspath_prepend(tmp_path / "path")
    yield write
    for name in [name for name in sys.modules if name.startswith("outside_")]:
        del sys.modules[name]


def test_a_model_is_known_by_its_file_its_dotted_path_and_its_entry_point(outside, monkeypatch):
    file = outside()
    monkeypatch.setattr(registry, "announced", lambda group: {"deep": "outside_package.models.Outside"})
    references = [file, "outside_package.models", "outside_package.models.Outside", "deep"]
    found = [registry.model(reference) for reference in references]
    assert [model.name for model in found] == ["outside_model", "models", "outside", "deep"]
    for reference, model in zip(references, found, strict=True):
        assert (model.class_name, model.presets, model.scaled) == ("Outside", {"tiny": {"dim": 4}}, {"dim": (2,)})
        assert registry.check(reference, {"kind": "b"}, "tiny") == {"dim": 4, "kind": "b"}
        with pytest.raises(ValueError, match="`kind` of .* must be"):
            registry.check(reference, {"kind": "c"})
    assert "deep" in registry.names()
    assert registry.origin(file) == file
    assert registry.origin("deep") == "outside_package.models"


def test_a_model_from_a_file_is_built_under_its_own_name_in_keras_files(outside):
    file = outside()
    backbone = registry.build(file, {"dim": 6})
    assert (backbone.name, backbone.dim) == ("outside_model", 6)
    assert registry.load_class(file) is type(backbone), "a file is imported once"
    assert keras.saving.get_registered_name(type(backbone)) == "outside_model>Outside"
    assert type(backbone).from_preset("tiny").dim == 4


def test_a_file_that_has_changed_is_read_and_imported_again(outside):
    file = outside()
    assert registry.build(file).dim == 8
    outside(MODEL.replace("dim: int = 8", "dim: int = 9"))
    os.utime(file, ns=(1, 1))
    assert registry.build(file).dim == registry.parameters(file)[0].default == 9


def test_a_file_may_not_take_the_name_of_another_module(outside):
    file = outside(name="json")
    with pytest.raises(ValueError, match=r"json.py has the name of another module, .*: rename it"):
        registry.build(file)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("dim: int = 8", "dim: int = 2**3", "line 19: the default of `dim` is read without importing the file, so it"),
        ("dim: int = 8", "dim: int", "line 19: parameter `dim` needs a type and a default"),
        ("dim: int = 8", "dim=8", "line 19: parameter `dim` needs a type and a default"),
        ("dim: int = 8", "dim: Width = 8", "the type of `dim` is read without importing the file, so it must be made"),
        ("*, dim", "dim", "must take keyword-only parameters and **kwargs: def __init__(self, *, dim: int = 8"),
        (", **kwargs) ->", ") ->", "must take keyword-only parameters and **kwargs"),
        (
            '{"tiny": {"dim": 4}}',
            "dict(tiny={})",
            "line 6: `PRESETS` is read without importing the file, so it must be",
        ),
        ("(2,)}", "(2, WIDTH)}", "line 7: `SCALED` is read without importing the file, so it must be a literal"),
        ("@register", "@other", "must have exactly one class under @register(title=..., arxiv=...), found none"),
        (', arxiv="1234.5678"', "", "line 10: @register takes title=..., arxiv=..."),
        ("def __init__", "def init", "line 11: Outside must have an `__init__` that names its parameters"),
        ("class Outside", "class class", "line 11: invalid syntax"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(outside, before, after, message):
    assert before in MODEL
    file = outside(MODEL.replace(before, after))
    with pytest.raises(ValueError) as error:
        registry.model(file)
    assert file in str(error.value) and message in str(error.value)


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("no_such_file.py", "model file no_such_file.py does not exist"),
        ("no_such_package.models.Deep", "there is no module `no_such_package.models` for the model"),
        (
            "outside_package.models.Inside",
            "must have a class Inside under @register(title=..., arxiv=...), found Outside",
        ),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(outside, reference, message):
    outside()
    with pytest.raises(ValueError) as error:
        registry.model(reference)
    assert message in str(error.value)


def spec_of(*, windows=("before", "within"), groups=("user", "item")):
    features = [Categorical(f"of_{group}", group=group) for group in groups]
    histories = [History(window, of=("of_item",), length=2, window=window) for window in windows]
    return FeatureSpec(
        name="log",
        user=Key("user"),
        item=Key("clip"),
        time=EventTime("time"),
        scenario=Scenario("tab", values=(1,)),
        labels=(Label("click"),),
        features=(*features, *histories),
    )


@pytest.mark.parametrize(
    ("model", "params", "declared", "message"),
    [
        (
            "hemix",
            {},
            {"windows": ("before",)},
            r'hemix reads a history with window="within".*declare History\(..., window="within"\) or set '
            "`realtime_sequence` to False$",
        ),
        ("hemix", {"realtime_sequence": False}, {"windows": ()}, 'window="before".*or set `global_sequence` to False'),
        ("hemix", {}, {"windows": ()}, r'declare History\(..., window="before"\)$'),
        ("mixformer", {}, {"windows": ("within",)}, 'window="before".*or set `history` to .within.$'),
        ("mixformer", {"history": "before"}, {"windows": ()}, r'declare History\(..., window="before"\)$'),
        ("mixformer", {"user_heads": 2, "history": "before"}, {"windows": (), "groups": ("user",)}, "window"),
        ("mtgr", {}, {"windows": (), "groups": ("user",)}, 'mtgr reads features of group "item".*declare at least one'),
        ("mtmixatt", {"groups": [["of_usr", 1]]}, {}, "`groups` names 'of_usr', which is not a field of the log; did"),
        ("mtmixatt", {"esmm": [["buy", "click"]]}, {}, "`esmm` names 'buy', which is not a task of the log; expected"),
    ],
)
def test_a_spec_that_a_model_cannot_read_is_refused(model, params, declared, message):
    spec = spec_of(**declared)
    with pytest.raises(ValueError, match=message):
        registry.check_spec(model, spec, field_names(spec), params, "tiny" if model != "mtmixatt" else None)


@pytest.mark.parametrize(
    ("model", "params", "declared"),
    [
        ("hemix", {"global_sequence": False, "realtime_sequence": False}, {"windows": ()}),
        ("mixformer", {"history": "within"}, {"windows": ("within",)}),
        ("mtmixatt", {"groups": [["of_user", "tab"]], "esmm": []}, {"windows": ()}),
        ("dcnv2", {}, {"windows": ()}),
    ],
)
def test_a_spec_with_all_that_a_model_reads_is_accepted(model, params, declared):
    spec = spec_of(**declared)
    registry.check_spec(model, spec, field_names(spec), params)
