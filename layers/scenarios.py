"""A new scenario for a trained model: only what belongs to it alone is trained."""

from __future__ import annotations

import keras
import numpy as np
from keras import ops

from layers.backbone import backbone_of
from layers.counts import Part
from layers.inputs import model_inputs
from layers.models.mtmixatt import MTmixAtt
from schemas.features import FeatureSpec
from schemas.naming import nearest


@keras.saving.register_keras_serializable("mixrank")
class GrownEmbedding(keras.Layer):
    """A trained `IdEmbedding` of a scenario, frozen, with a row for each scenario that was added since.

    Rows are those of ids 0 (missing), the trained scenarios, the added ones, and any other. An optimizer with momentum
    or weight decay moves a row even where its gradient is 0, so every added row is a weight of its own.

    Args:
        size: int >= 2. Rows of the trained table.
        dim: int >= 1. Width of a vector.
        added: int >= 1. Added scenarios; the row of the last one is trainable.

    Call arguments:
        ids: int tensor (batch,).

    Returns:
        Tensor (batch, dim).
    """

    def __init__(self, *, size: int, dim: int, added: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.size = size
        self.dim = dim
        self.added = added

    def build(self, input_shape) -> None:
        options = {"initializer": "zeros", "autocast": False}
        self.embeddings = self.add_weight(shape=(self.size, self.dim), trainable=False, name="embeddings", **options)
        self.rows = [
            self.add_weight(
                shape=(1, self.dim), trainable=index == self.added, name=f"row_{self.size - 2 + index}", **options
            )
            for index in range(1, 1 + self.added)
        ]

    def call(self, ids):
        table = ops.concatenate([self.embeddings[:-1], *self.rows, self.embeddings[-1:]], axis=0)
        rows = ops.take(table, ops.clip(ids, 0, self.size + self.added - 1), axis=0)
        return ops.cast(rows, self.compute_dtype)

    def compute_output_shape(self, input_shape):
        return (*input_shape, self.dim)

    def parts(self) -> list[Part]:
        """Parameters of the table; a lookup costs no multiply-add."""
        return [Part("embeddings", (self.size + self.added) * self.dim, 0)]

    def get_config(self) -> dict:
        return {**super().get_config(), "size": self.size, "dim": self.dim, "added": self.added}


def add_scenario(model: keras.Model, spec: FeatureSpec, *, like: int | str | None = None) -> keras.Model:
    """A trained MTmixAtt ranker with one scenario more, in which only that scenario's own weights are trainable.

    Those are its embedding row, its expert and router column in every block, and the A, B and b of its adapters. All
    others are frozen by `trainable=False`, so that no optimizer moves them, and rows of other scenarios cannot choose
    the new expert: whatever the new rows train, the scores of old scenarios stay bit for bit the same. Ids keep their
    meaning too: "other" moves from C + 1 to C + 2, its row with it.

    Expert, router column and embedding row start as copies of those of the scenario `like`; A starts random and B and b
    at 0, so that the heads start as the main scenario's.

    Args:
        model: a ranker of `layers.ranker.build_ranker` with model mtmixatt; left unchanged.
        spec: the declaration the model was built from, with one more scenario value at the end.
        like: declared value of the scenario to start from; None is the main scenario.

    Returns:
        The new model; compile it, train it on rows of the new scenario. Another scenario can be added to it in turn.

    Raises:
        ValueError: another model than mtmixatt, a spec that differs by more than one value at the end, or an
            undeclared `like`.
    """
    old = _backbone(model)
    before, after = tuple(old.scenarios), tuple(spec.scenario.values)
    if after[:-1] != before:
        raise ValueError(
            f"`spec` must declare the scenarios of the model and one more at the end, the model has {before}, "
            f"received {after}"
        )
    if set(model_inputs(spec)) != set(model.input):
        differ = sorted(set(model_inputs(spec)) ^ set(model.input))
        raise ValueError(f"`spec` must have the columns of the model, it differs in {differ}")
    if like is not None and like not in before:
        raise ValueError(
            f"`like` must be a scenario of the model, received {like!r}{nearest(str(like), map(str, before))}"
        )
    table = model.get_layer(f"embedding_{spec.scenario.name}")

    def clone(layer: keras.Layer) -> keras.Layer:
        config = layer.get_config()
        if layer is table:
            added = config.pop("added", 0) + 1
            config.pop("storage", None)  # A ranker that is trained has float32 tables.
            return GrownEmbedding(**{**config, "added": added})
        if layer is old:
            grown = {"scenarios": list(after), "added_scenarios": old.added_scenarios + 1}
            return type(layer).from_config({**config, **grown})
        if layer.name == "heads":
            return type(layer).from_config({**config, "scenarios": len(after), "added": old.added_scenarios + 1})
        return type(layer).from_config(config)

    new = keras.models.clone_model(model, clone_function=clone)
    trained = {variable.path: variable for variable in model.variables}
    for variable in new.variables:
        if variable.path in trained:
            variable.assign(trained[variable.path])
    own = {id(layer) for layer in (new.get_layer(table.name), _backbone(new), new.get_layer("heads"))}
    for layer in new.layers:
        if id(layer) not in own:
            layer.trainable = False

    position = old.main if like is None else before.index(like)
    grown = new.get_layer(table.name)
    grown.rows[-1].assign(np.array(table(np.array([position + 1]))))
    for block in _backbone(new).blocks:
        if block.sparse is not None:
            block.sparse.start_like(position)
    return new


def _backbone(model: keras.Model) -> MTmixAtt:
    backbone = backbone_of(model)
    if not isinstance(backbone, MTmixAtt):
        raise ValueError(f"`model` must be an mtmixatt ranker, received {backbone.name}")
    return backbone
