"""The contract of a model: rules that every model of mixrank keeps, to be tried on a model from outside.

>>> from mixrank.testing import check_model
>>> check_model("hemix")
"""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

import mixrank
from mixrank.layers import Backbone, registry
from mixrank.layers.base import counts
from mixrank.layers.heads import heads_for
from mixrank.layers.ranking import Ranker, build_ranker, dense_parameters, field_names, match, model_inputs, widths
from mixrank.schemas import (
    GROUPS,
    Action,
    Categorical,
    EventTime,
    FeatureSpec,
    History,
    Key,
    Label,
    Match,
    MultiCategorical,
    Numeric,
    Scenario,
    TimeGap,
    datasets,
)

# Ids of each feature of `toy_spec`, 0 included.
SIZES = {"person": 6, "clip": 9, "tag": 5, "country": 4}


def check_model(model: type[Backbone] | str, preset: str = "tiny") -> None:
    """Tries a model on everything in `CONTRACT`.

    Args:
        model: its class, or a reference as a configuration has it: a name, a dotted path, the path of a .py file.
        preset: a small preset of it.

    Raises:
        AssertionError: at the first rule that the model breaks; the rule's name is in a note.
        ValueError: if the registry cannot read the model's file.
    """
    case = Case(model, preset)
    for rule in CONTRACT:
        try:
            rule(case)
        except Exception as error:
            error.add_note(f"broken rule: {rule.__name__.replace('_', ' ')}")
            raise


class Case:
    """A model with what its rules are tried on: a small log with every feature type, and a ranker of random weights.

    Args:
        model, preset: as in `check_model`.
        heads: as in `build_ranker`; None for the model's own.
    """

    def __init__(
        self, model: type[Backbone] | str, preset: str = "tiny", heads: Mapping[str, Any] | None = None
    ) -> None:
        self.reference = model if isinstance(model, str) else f"{model.__module__}.{model.__name__}"
        self.model = registry.model(self.reference)
        self.preset = preset
        self.spec = toy_spec()
        self.heads = heads

    def build(self, spec: FeatureSpec | None = None, seed: int = 1) -> Ranker:
        """A new ranker."""
        spec = spec or self.spec
        return build_ranker(spec, SIZES, model=self.reference, preset=self.preset, seed=seed, heads=self.heads)

    @functools.cached_property
    def ranker(self) -> Ranker:
        """A ranker whose biases and norms are random too, small enough for deep stacks to stay smooth."""
        model, rng = self.build(), np.random.default_rng(7)
        for variable in model.trainable_variables:
            variable.assign(variable + rng.normal(scale=0.05, size=variable.shape))
        return model

    @property
    def backbone(self) -> Backbone:
        """That of `ranker`."""
        return self.ranker.get_layer(self.model.name)


# 1. What the rules are tried on.


def toy_spec() -> FeatureSpec:
    """Every feature type, both histories, two tasks; all sizes different."""
    fields = ("clip", "tag", "action", "gap")
    return FeatureSpec(
        name="toy",
        user=Key("person"),
        item=Key("clip"),
        time=EventTime("at"),
        scenario=Scenario("place", values=(3, 7), dim=2),
        labels=(Label("click"), Label("like")),
        features=(
            Categorical("person", group="user", dim=5),
            Numeric("age", group="user"),
            Categorical("clip", group="item", dim=6),
            MultiCategorical("tag", group="item", max_length=2, pooling="attention", dim=3),
            Numeric("seconds", group="item", transform="bucketize", buckets=4, dim=2),
            Categorical("country", group="context", dim=4),
            Action("action", flags=("click", "like"), dim=2),
            TimeGap("gap", buckets=8, dim=3),
            History("past", of=fields, length=5, window="before"),
            History("today", of=fields, length=3, window="within"),
            Match("had", of="tag", flags=("like",)),
        ),
    )


def toy_rows(ranker: keras.Model, batch: int = 4, seed: int = 0, high: int = 4) -> dict[str, np.ndarray]:
    """Random transformed rows of a ranker of `toy_spec`; histories are padded at the end, the first row's are empty."""
    rng = np.random.default_rng(seed)
    rows: dict[str, np.ndarray] = {}
    for name, tensor in ranker.input.items():
        shape = (batch, *tensor.shape[1:])
        number = tensor.dtype == "float32"
        rows[name] = rng.normal(size=shape).astype("float32") if number else rng.integers(1, high, size=shape)
    for history, length in (("past", 5), ("today", 3)):
        filled = np.arange(length)[None, :] < rng.integers(1, length + 1, size=batch)[:, None]
        filled[0] = False
        for name in rows:
            if name.startswith(f"{history}_"):
                rows[name] = rows[name] * np.repeat(filled, rows[name].shape[1] // length, axis=1)
    return rows


def toy_arguments(backbone: Backbone, requests: int, candidates: np.ndarray, seed: int = 0) -> tuple[Any, Any, Any]:
    """Random features, histories and scenarios as a backbone gets them; the first request's histories are empty."""
    rng = np.random.default_rng(seed)
    rows = {"user": requests, "item": len(candidates), "context": requests}
    features = {
        group: [rng.normal(size=(rows[group], width)).astype("float32") for width in backbone.widths.vectors[group]]
        for group in GROUPS
    }
    histories = {}
    for window, (length, width) in backbone.widths.histories.items():
        filled = np.arange(length) < rng.integers(1, length + 1, size=requests)[:, None]
        filled[0] = False
        items = rng.normal(size=(requests, length, width)).astype("float32")
        histories[window] = {"items": items, "mask": filled}
    return features, histories, rng.integers(0, len(backbone.scenarios) + 2, size=requests)


def gradients(layer: Any, variables: list[Any], *inputs: Any) -> list[np.ndarray | None]:
    """Gradients of a random weighting of the outputs, so that symmetric losses hide nothing.

    Args:
        layer: a built layer or model; with TensorFlow any function.
        variables: with JAX, all trainable ones of `layer`.
        inputs: arguments of `layer`.

    Returns:
        One per variable; None if TensorFlow finds no way to it.
    """

    def loss(outputs: Any) -> Any:
        outputs = keras.tree.flatten(outputs)
        weights = [np.random.default_rng(5).normal(size=y.shape).astype("float32") for y in outputs]
        return sum(keras.ops.sum(keras.ops.cast(y, "float32") * w) for y, w in zip(outputs, weights, strict=True))

    if keras.backend.backend() == "jax":
        import jax

        fixed = [each.value for each in layer.non_trainable_variables]
        found = jax.grad(lambda values: loss(layer.stateless_call(values, fixed, *inputs)[0]))(
            [each.value for each in variables]
        )
        return [np.array(each) for each in found]
    import tensorflow as tf

    with tf.GradientTape() as tape:
        value = loss(layer(*inputs))
    return [None if g is None else np.array(tf.convert_to_tensor(g)) for g in tape.gradient(value, variables)]


def matrix_product_flops(model: keras.Model, rows: dict[str, np.ndarray]) -> int:
    """2 per multiply-add of every matrix product in TensorFlow's graph, per row; what a batch pays once is left out.

    A product inside a loop counts as often as the loop runs.

    Raises:
        AssertionError: if the graph has an Einsum or a convolution, whose multiply-adds cannot be read from its shapes.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    def of_batch(size: int) -> int:
        @tf.function
        def forward(batch: Any) -> Any:
            return model(batch)

        example = {name: tf.constant(x[:size]) for name, x in rows.items()}
        frozen = convert_variables_to_constants_v2(forward.get_concrete_function(example), lower_control_flow=False)
        return _products(frozen.graph, frozen.outputs)

    return of_batch(3) - of_batch(2)


def _products(graph: Any, outputs: Any) -> int:
    """FLOPs of the matrix products in a graph that its outputs depend on."""
    import tensorflow as tf
    from tensorflow.python.framework.function_def_to_graph import function_def_to_graph

    used, waiting = set(), [tensor.op for tensor in outputs]
    while waiting:
        op = waiting.pop()
        if op not in used:
            used.add(op)
            waiting += [*(tensor.op for tensor in op.inputs), *op.control_inputs]
    total = 0
    for op in used:
        _require(op.type not in ("Einsum", "Conv2D"), f"`{op.name}` is a {op.type}: write it with `ops.matmul`")
        if op.type in ("MatMul", "BatchMatMulV2"):
            left, (output,) = op.inputs[0].shape, op.outputs
            inner = left[-2] if op.get_attr("transpose_a" if op.type == "MatMul" else "adj_x") else left[-1]
            total += 2 * inner * output.shape.num_elements()
        elif op.type in ("While", "StatelessWhile"):
            bodies = {each.signature.name: each for each in graph.as_graph_def(add_shapes=True).library.function}
            body = function_def_to_graph(bodies[op.get_attr("body").name], input_shapes=[x.shape for x in op.inputs])
            # Its first inputs are a counter and the number of rounds.
            with tf.compat.v1.Session(graph=graph) as session:
                rounds = int(session.run(op.inputs[1]))
            total += rounds * _products(body, body.outputs)
    return total


def scores(logits: dict[str, Any]) -> np.ndarray:
    """The logits of all tasks as one array (batch, tasks)."""
    return np.stack([np.array(logit, "float32") for logit in logits.values()], axis=1)


# 2. The rules. What a rule says is its name.


def what_is_read_from_the_source_is_what_python_sees(case: Case) -> None:
    cls, model = registry.load_class(case.reference), case.model
    given = [p for p in inspect.signature(cls.__init__).parameters.values() if p.kind is p.KEYWORD_ONLY]
    _require([(p.name, p.default) for p in given] == [(p.name, p.default) for p in model.parameters], "other defaults")
    _require((model.title, model.arxiv) == (cls.title, cls.arxiv), "another title or arXiv number")


def every_parameter_is_described_and_every_choice_is_a_literal(case: Case) -> None:
    for each in case.model.parameters:
        _require(bool(each.description), f"the docstring has no words on `{each.name}` under Args:")
        # With `str` a typo in a configuration would be noticed only when Keras is loaded, or never.
        free = each.type in ("str", "str | None")
        _require(not free, f"`{each.name}` is {each.type}: write its choices, as Literal['mean', 'target']")


def every_preset_passes_its_own_check(case: Case) -> None:
    for preset, values in case.model.presets.items():
        _require(
            registry.check(case.reference, preset=preset) == values, f"preset `{preset}` must hold tuples, not lists"
        )


def a_row_gets_a_finite_float32_logit_per_task(case: Case) -> None:
    _require(set(case.ranker.input) == set(model_inputs(case.spec)), "the ranker has other inputs than the spec")
    logits = case.ranker(toy_rows(case.ranker, batch=5))
    _require(list(logits) == list(case.spec.tasks), f"logits of {list(logits)}, expected {case.spec.tasks}")
    for logit in logits.values():
        _require(tuple(logit.shape) == (5,), f"logits have the shape {logit.shape}, expected (5,)")
        _require(keras.backend.standardize_dtype(logit.dtype) == "float32", f"logits are {logit.dtype}, not float32")
        values = np.array(logit)
        _require(bool(np.all(np.isfinite(values)) and np.std(values) > 0), f"logits are {values}")
    first, second = (np.array(logit) for logit in logits.values())
    _require(np.abs(first - second).max() > 1e-6, "both tasks have the same logits")


def a_file_gives_back_the_same_logits(case: Case) -> None:
    rows = toy_rows(case.ranker)
    with tempfile.TemporaryDirectory() as folder:
        case.ranker.save(f"{folder}/ranker.keras")
        loaded = mixrank.load(f"{folder}/ranker.keras", case.reference)
    np.testing.assert_array_equal(scores(loaded(rows)), scores(case.ranker(rows)))
    _require(counts(loaded) == counts(case.ranker), "the loaded model counts other parameters")


def every_weight_is_counted(case: Case) -> None:
    counted = sum(part.parameters for part in counts(case.ranker))
    _require(counted == case.ranker.count_params(), f"counted {counted} parameters of {case.ranker.count_params()}")


def the_arithmetic_before_building_is_that_of_the_built_model(case: Case) -> None:
    dense = sum(part.parameters for part in counts(case.ranker) if part.name != "embeddings")
    fed, backbone = widths(case.spec), case.backbone
    params = registry.check(case.reference, preset=case.preset)
    before = dense_parameters(
        case.reference,
        params,
        fed,
        case.spec.tasks,
        case.spec.scenario.values,
        heads=heads_for(case.heads, case.spec),
        field_names=field_names(case.spec),
    )
    _require(dense == before, f"{before} dense parameters before building, {dense} after")
    given, _ = backbone.given(fed)
    _require(backbone.widths == given, f"built with {backbone.widths}, expected {given}")


def flops_are_those_of_the_traced_graph(case: Case) -> None:
    if keras.backend.backend() == "tensorflow":
        stated = sum(part.flops for part in counts(case.ranker))
        traced = matrix_product_flops(case.ranker, toy_rows(case.ranker))
        _require(stated == traced, f"`count` states {stated} FLOPs per row, the graph has {traced}")


def histories_and_groups_all_reach_the_logits(case: Case) -> None:
    rows = toy_rows(case.ranker, batch=16)
    before = scores(case.ranker(rows))
    windows = {"before": "past_clip", "within": "today_clip"}
    read = [column for window, column in windows.items() if window in case.backbone.windows]
    for column in ("place", "person", "clip", "country", "age", *read):
        values = rows[column]
        other = values + 1 if values.dtype == "float32" else np.where(values > 0, values % 3 + 1, 0)
        moved = np.abs(scores(case.ranker({**rows, column: other})) - before).max()
        _require(moved > 1e-6, f"`{column}` does not change a logit")


def every_history_of_a_window_is_read(case: Case) -> None:
    more = (
        History("bought", of=("clip", "gap"), length=2, window="before"),
        History("asked", of=("tag",), length=4, window="within"),
    )
    read = [history for history in more if history.window in case.backbone.windows]
    if not read:
        return
    model = case.build(case.spec.model_copy(update={"features": (*case.spec.features, *more)}))
    rows = toy_rows(model, batch=16)
    before = scores(model(rows))
    for column in (history.column(history.of[0]) for history in read):
        moved = np.abs(scores(model({**rows, column: rows[column] % 3 + 1})) - before).max()
        _require(moved > 1e-6, f"`{column}` of another history does not change a logit")
    counted = sum(part.parameters for part in counts(model))
    _require(counted == model.count_params(), f"counted {counted} parameters of {model.count_params()}")


def a_row_is_scored_alone_as_in_any_batch(case: Case) -> None:
    rows = toy_rows(case.ranker, batch=7)
    expected = scores(case.ranker(rows))
    order = np.array([3, 0, 6, 2, 5, 1, 4])
    np.testing.assert_allclose(scores(case.ranker({k: v[order] for k, v in rows.items()})), expected[order], atol=1e-5)
    one = scores(case.ranker({k: v[2:3] for k, v in rows.items()}))
    # A batch of one takes other matrix kernels, whose float32 sums were seen to differ by 1.3e-5.
    np.testing.assert_allclose(one, expected[2:3], atol=5e-5)


def what_stands_in_padding_does_not_matter(case: Case) -> None:
    features, histories, scenario = toy_arguments(case.backbone, 4, np.arange(4))
    garbage = {
        window: {"items": np.where(each["mask"][..., None], each["items"], 1e3).astype("float32"), "mask": each["mask"]}
        for window, each in histories.items()
    }
    expected = np.array(case.backbone(features, histories, scenario))
    np.testing.assert_allclose(np.array(case.backbone(features, garbage, scenario)), expected, atol=1e-5)


def nothing_known_gives_finite_logits_and_gradients(case: Case) -> None:
    rows = toy_rows(case.ranker, batch=3)
    unseen = {k: np.where(v != 0, 10**6, 0) if v.dtype != "float32" else v for k, v in rows.items()}
    for each in (unseen, {k: v * 0 for k, v in rows.items()}):
        _require(bool(np.all(np.isfinite(scores(case.ranker(each))))), "a logit is not finite")
        found = _gradients(case.ranker, each)
        _require(all(np.all(np.isfinite(g)) for g in found if g is not None), "a gradient is not finite")


def two_training_steps_move_every_weight(case: Case) -> None:
    if keras.backend.backend() == "numpy":
        return
    # Two, because a low-rank pair that starts at zero lets no gradient through in the first.
    model = case.build(seed=2)
    rows = toy_rows(model, batch=64)
    labels = {task: np.random.default_rng(0).integers(0, 2, (64, 1)).astype("float32") for task in case.spec.tasks}
    loss = {task: keras.losses.BinaryCrossentropy(from_logits=True) for task in labels}
    model.compile(keras.optimizers.Adam(0.01), loss=loss, run_eagerly=True)
    before = [np.array(v) for v in model.trainable_variables]
    losses = [model.train_on_batch(rows, labels, return_dict=True)["loss"] for _ in range(2)]
    still = [v.path for v, old in zip(model.trainable_variables, before, strict=True) if np.all(np.array(v) == old)]
    _require(not still, f"training does not move {still}")
    _require(bool(np.all(np.isfinite(losses))), f"the loss is {losses}")


def mixed_precision_stays_close_and_trains_in_float32(case: Case) -> None:
    exact = scores(case.ranker(toy_rows(case.ranker, batch=6)))
    with _policy("mixed_bfloat16"):
        model = case.build()
        model.set_weights(case.ranker.get_weights())
        rows = toy_rows(model, batch=6)
        dtype = model.get_layer(case.model.name).compute_dtype
        _require(dtype == "bfloat16", f"the backbone computes in {dtype}: hand `dtype=self.dtype_policy` on")
        logits = model(rows)
        dtypes = {keras.backend.standardize_dtype(logit.dtype) for logit in logits.values()}
        _require(dtypes == {"float32"}, f"logits are {dtypes}, not float32")
        np.testing.assert_allclose(scores(logits), exact, atol=0.1 * np.abs(exact).max() + 0.05)
        for gradient in _gradients(model, rows):
            fine = gradient is None or (gradient.dtype == "float32" and np.all(np.isfinite(gradient)))
            _require(bool(fine), "a gradient is not float32, or not finite")


def candidates_of_a_request_are_scored_as_expanded_rows(case: Case) -> None:
    backbone = case.backbone
    # Request 1 has no candidate, the first an empty history; then one request alone.
    for rows in (np.array([2, 0, 2, 3, 0]), np.array([0, 0, 0])):
        arguments = toy_arguments(backbone, 4 if rows.any() else 1, rows)
        expanded = _expanded(arguments, rows)
        np.testing.assert_allclose(np.array(backbone(*arguments, rows)), np.array(backbone(*expanded)), atol=1e-5)
        by_request, by_row = _gradients(backbone, *arguments, rows), _gradients(backbone, *expanded)
        for variable, left, right in zip(backbone.trainable_variables, by_request, by_row, strict=False):
            _require((left is None) == (right is None), f"only one of the two ways reaches {variable.path}")
            if left is not None and right is not None:
                np.testing.assert_allclose(left, right, atol=1e-4 * (1 + np.abs(right).max()), err_msg=variable.path)


def gradients_are_finite_differences(case: Case) -> None:
    backbone = case.backbone
    arguments = toy_arguments(backbone, 3, np.arange(3), seed=3)
    variables, rng = backbone.trainable_variables, np.random.default_rng(4)
    before = [np.array(v) for v in variables]
    found = _gradients(backbone, *arguments)
    if not found:
        return
    weights = np.random.default_rng(5).normal(size=np.array(backbone(*arguments)).shape)
    failures = []
    # A long step may cross a kink of ReLU, a short one drowns in rounding.
    for step in (1e-3, 3e-4, 1e-4):
        direction = [rng.normal(size=v.shape) for v in variables]
        sides = []
        for sign in (1, -1):
            for variable, old, d in zip(variables, before, direction, strict=True):
                variable.assign(old + sign * step * d / np.sqrt(len(variables)))
            sides.append(np.sum(np.array(backbone(*arguments), "float64") * weights))
        for variable, old in zip(variables, before, strict=True):
            variable.assign(old)
        difference = (sides[0] - sides[1]) / (2 * step)
        slope = sum(np.sum(g * d) for g, d in zip(found, direction, strict=True) if g is not None)
        slope /= np.sqrt(len(variables))
        failures.append(abs(difference - slope) / (1 + abs(slope)))
    _require(min(failures) < 0.01, f"gradients differ from finite differences by {failures}")


def a_log_without_a_history_is_scored_or_the_remedy_named(case: Case) -> None:
    for windows in ((), ("before",), ("within",)):
        kept = tuple(f for f in case.spec.features if not isinstance(f, History) or f.window in windows)
        if not windows:
            # No history, so no field that only a history has.
            kept = tuple(f for f in kept if not isinstance(f, Action | TimeGap))
        try:
            model = case.build(case.spec.model_copy(update={"features": kept}))
        except ValueError as error:
            named = "window=" in str(error) and "declare" in str(error)
            _require(named, f"the error must name the window, and say to declare a history: {error}")
        else:
            rows = {n: np.ones((2, *x.shape[1:]), x.dtype) for n, x in model.input.items()}
            _require(bool(np.all(np.isfinite(scores(model(rows))))), "a logit is not finite")


def an_empty_tuple_works_or_is_refused_by_name(case: Case) -> None:
    backbone = case.backbone
    arguments = toy_arguments(backbone, 2, np.arange(2))
    for each in case.model.parameters:
        if not each.type.startswith("tuple"):
            continue
        try:
            found = registry.build(case.reference, {each.name: ()}, case.preset, scenarios=backbone.scenarios)
            output = np.array(found(*arguments))
        except ValueError as error:
            _require(f"`{each.name}`" in str(error), f"`{each.name}` = () is refused without its name: {error}")
        else:
            _require(output.shape == (2, found.width(found.widths)), f"`{each.name}` = () gives {output.shape}")


def an_unknown_length_or_width_is_refused_by_name(case: Case) -> None:
    fed = case.backbone.widths
    features = {group: [keras.Input((width,)) for width in fed.vectors[group]] for group in GROUPS}
    sizes: list[tuple[str, Any]] = [("user", None), *fed.histories.items()]
    for place, _ in sizes:
        given = {**features, "user": [keras.Input((None,))]} if place == "user" else features
        histories = {
            window: {
                "items": keras.Input((None if window == place else length, width)),
                "mask": keras.Input((None if window == place else length,), dtype="bool"),
            }
            for window, (length, width) in fed.histories.items()
        }
        backbone = registry.build(case.reference, preset=case.preset, scenarios=case.backbone.scenarios)
        try:
            backbone(given, histories, keras.Input((), dtype="int64"))
        except ValueError as error:
            _require(f"`{place}`" in str(error), f"an unknown size of `{place}` is refused without its name: {error}")
        else:
            raise AssertionError(f"an unknown size of `{place}` is accepted: call super().build first in `build`")


def a_model_scales_to_a_budget(case: Case) -> None:
    spec = datasets.load("kuairand").spec
    fed = (widths(spec), spec.tasks, spec.scenario.values)
    for budget in (1_000_000, 20_000_000) if case.model.scaled else ():
        params = match(case.reference, budget, *fed, preset=case.preset)
        found = dense_parameters(case.reference, params, *fed)
        _require(abs(found / budget - 1) < 0.06, f"{found} dense parameters at a budget of {budget}")


def presets_grow(case: Case) -> None:
    spec = datasets.load("kuairand").spec
    fed = (widths(spec), spec.tasks, spec.scenario.values)
    sizes = {
        preset: dense_parameters(case.reference, registry.check(case.reference, preset=preset), *fed)
        for preset in case.model.presets
    }
    _require(bool(sizes), "`PRESETS` must have at least one")
    _require(list(sizes.values()) == sorted(set(sizes.values())), f"presets must stand from small to large: {sizes}")


CONTRACT: tuple[Callable[[Case], None], ...] = (
    what_is_read_from_the_source_is_what_python_sees,
    every_parameter_is_described_and_every_choice_is_a_literal,
    every_preset_passes_its_own_check,
    a_row_gets_a_finite_float32_logit_per_task,
    a_file_gives_back_the_same_logits,
    every_weight_is_counted,
    the_arithmetic_before_building_is_that_of_the_built_model,
    flops_are_those_of_the_traced_graph,
    histories_and_groups_all_reach_the_logits,
    every_history_of_a_window_is_read,
    a_row_is_scored_alone_as_in_any_batch,
    what_stands_in_padding_does_not_matter,
    nothing_known_gives_finite_logits_and_gradients,
    two_training_steps_move_every_weight,
    mixed_precision_stays_close_and_trains_in_float32,
    candidates_of_a_request_are_scored_as_expanded_rows,
    gradients_are_finite_differences,
    a_log_without_a_history_is_scored_or_the_remedy_named,
    an_empty_tuple_works_or_is_refused_by_name,
    an_unknown_length_or_width_is_refused_by_name,
    a_model_scales_to_a_budget,
    presets_grow,
)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _gradients(layer: keras.Layer, *inputs: Any) -> list[np.ndarray | None]:
    # NumPy has none.
    return [] if keras.backend.backend() == "numpy" else gradients(layer, layer.trainable_variables, *inputs)


def _expanded(arguments: tuple[Any, Any, Any], rows: np.ndarray) -> tuple[Any, Any, Any]:
    features, histories, scenario = arguments
    features = {g: vectors if g == "item" else [v[rows] for v in vectors] for g, vectors in features.items()}
    histories = {window: {key: x[rows] for key, x in each.items()} for window, each in histories.items()}
    return features, histories, scenario[rows]


@contextmanager
def _policy(name: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
