"""One harness that every layer passes, and small specs and rows to build models from."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from mixrank import testing


def _randomize(layer, seed: int = 0, scale: float = 0.5) -> None:
    """Gives every weight, biases and norms included, a random value."""
    rng = np.random.default_rng(seed)
    layer.set_weights([rng.normal(scale=scale, size=w.shape) for w in layer.get_weights()])


@pytest.fixture
def randomize():
    return _randomize


@pytest.fixture
def matrix_product_flops():
    return testing.matrix_product_flops


@pytest.fixture
def gradients():
    return testing.gradients


@pytest.fixture
def float32_afterwards():
    """Takes back the precision that a test sets."""
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def check_layer(tmp_path, float32_afterwards):
    """Runs what must hold for every layer and returns the built layer.

    A layer announces its output shape, takes another batch size, comes back from its config and from a file with the
    same outputs, lets a gradient into every weight, and stays close to itself in bfloat16.
    """

    def check(make, options: dict, *inputs, parameters: int):
        def each(change):
            return [[change(y) for y in x] if isinstance(x, list) else change(x) for x in inputs]

        layer = make(**options, name="layer")
        output = layer(*inputs)
        _randomize(layer)
        output = np.array(layer(*inputs))
        assert layer.count_params() == parameters
        assert np.all(np.isfinite(output))
        assert tuple(layer.compute_output_shape(*each(lambda x: x.shape))) == output.shape

        symbols = each(lambda x: keras.Input(x.shape[1:], dtype=keras.backend.standardize_dtype(x.dtype)))
        model = keras.Model(symbols, layer(*symbols))
        twice = each(lambda x: np.concatenate([x, x]))
        np.testing.assert_allclose(model(twice), np.concatenate([output, output]), atol=1e-5)

        copy = type(layer).from_config(layer.get_config())
        copy(*inputs)
        copy.set_weights(layer.get_weights())
        np.testing.assert_array_equal(copy(*inputs), output)
        model.save(tmp_path / "layer.keras")
        np.testing.assert_array_equal(keras.models.load_model(tmp_path / "layer.keras")(list(inputs)), output)

        variables = layer.trainable_variables
        for variable, gradient in zip(variables, testing.gradients(layer, variables, *inputs), strict=True):
            assert gradient is not None and np.any(gradient), f"no gradient reaches {variable.path}"

        keras.config.set_dtype_policy("mixed_bfloat16")
        low = make(**options, name="layer")
        assert low(*inputs).dtype == low.compute_dtype
        low.set_weights(layer.get_weights())
        np.testing.assert_allclose(np.array(low(*inputs), "float32"), output, atol=0.05 * np.abs(output).max())
        return layer

    return check


@pytest.fixture
def spec():
    """Every feature type, both histories, two tasks; all sizes different."""
    return testing.toy_spec()


@pytest.fixture
def sizes() -> dict[str, int]:
    return dict(testing.SIZES)


@pytest.fixture
def make_rows():
    return testing.toy_rows


@pytest.fixture
def arguments():
    """features, histories, scenario of a backbone's batch of 4; the first row has no history."""
    rng = np.random.default_rng(4)

    def normal(*shape):
        return rng.normal(size=(4, *shape)).astype("float32")

    before = np.arange(7)[None, :] < np.array([0, 1, 4, 7])[:, None]
    within = np.arange(3)[None, :] < np.array([0, 3, 2, 1])[:, None]
    features = {"user": [normal(5)], "item": [normal(4), normal(3)], "context": [normal(2)]}
    histories = {
        "before": {"items": normal(7, 6), "mask": before},
        "within": {"items": normal(3, 9), "mask": within},
    }
    return features, histories, np.array([1, 2, 0, 1])


@pytest.fixture
def check_backbone():
    """Runs what must hold for a backbone under every option and returns the built backbone.

    Its arithmetic counts its trainable weights, a gradient reaches every weight, the output is finite, as wide as
    announced and the same from its config.
    """

    def check(make, options: dict, arguments, *, unused: tuple[str, ...] = ()):
        layer = make(**options, name="backbone")
        layer(*arguments)
        _randomize(layer, scale=0.3)
        output = np.array(layer(*arguments))
        assert output.shape == (4, layer.width(layer.widths)) and np.all(np.isfinite(output))
        assert tuple(layer.compute_output_shape({}, {}, (4,))) == output.shape

        variables = layer.trainable_variables
        assert sum(part.parameters for part in layer.parts()) == sum(int(np.prod(v.shape)) for v in variables)
        for variable, gradient in zip(variables, testing.gradients(layer, variables, *arguments), strict=True):
            if any(name in variable.path for name in unused):
                assert gradient is None, f"a gradient reaches {variable.path}"
            else:
                assert gradient is not None and np.all(np.isfinite(gradient)), variable.path
                assert np.any(gradient), f"no gradient reaches {variable.path}"

        again = make.from_config(layer.get_config())
        again(*arguments)
        again.set_weights(layer.get_weights())
        np.testing.assert_array_equal(again(*arguments), output)
        return layer

    return check


@pytest.fixture
def arrays():
    """Layer -> {path below the layer: its weight as a float64 array}."""
    return lambda layer: {v.path.removeprefix(f"{layer.name}/"): np.array(v, "float64") for v in layer.weights}


@pytest.fixture
def mean_fields():
    """(features, histories) -> every feature vector and the mean of each history, in float64 and row by row."""

    def fields(features, histories) -> list[np.ndarray]:
        pooled = []
        for window in ("before", "within"):
            if window in histories:
                items, mask = histories[window]["items"], histories[window]["mask"]
                means = [
                    row[m].mean(axis=0) if m.any() else np.zeros(row.shape[1])
                    for row, m in zip(items, mask, strict=True)
                ]
                pooled.append(np.stack(means))
        vectors = [vector for group in ("user", "item", "context") for vector in features[group]]
        return [np.asarray(vector, "float64") for vector in (*vectors, *pooled)]

    return fields
