"""One version of a model in memory."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from mixrank.schemas.plain_names import plain
from mixrank.serving.base import check_saved_model
from mixrank.serving.dev_server.errors import Refused

DEFAULT_SIGNATURE = "serving_default"
_INIT = "__saved_model_init_op"
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class LoadedModel:
    """A SavedModel, loaded as TensorFlow Serving does: a session over its graph.

    The session lives as long as anything holds the model, so a request can finish after its version is unloaded.

    Args:
        folder: the SavedModel.

    Raises:
        ValueError: if its files are not complete.
        Refused: if TensorFlow cannot load it; other errors are possible where files are damaged.
    """

    def __init__(self, folder: Path) -> None:
        check_saved_model(folder)
        config = tf.compat.v1.ConfigProto()
        # A serving graph has no gradients: this optimization saves nothing and fills the terminal with warnings.
        config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=config)
        try:
            with self._session.graph.as_default():
                meta = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(plain(folder)))
        except tf.errors.OpError as error:
            raise _refused(error) from None
        self.signatures: dict[str, Any] = {name: each for name, each in meta.signature_def.items() if name != _INIT}

    def signature(self, name: str) -> Any:
        """The `SignatureDef` of a name; the empty name is `serving_default`.

        Raises:
            Refused: FAILED_PRECONDITION if there is none.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self.signatures:
            raise Refused(f'Serving signature name: "{name}" not found in signature def', "FAILED_PRECONDITION")
        return self.signatures[name]

    def run(
        self, signature: Any, inputs: Mapping[str, np.ndarray], outputs: Collection[str] = ()
    ) -> dict[str, np.ndarray]:
        """Computes the outputs of a signature, or some of them.

        Raises:
            Refused: INVALID_ARGUMENT for inputs or outputs that do not fit the signature in name, type or shape, and
                for values that TensorFlow refuses; INTERNAL for an output that is not finite.
        """
        _check_inputs(signature, inputs)
        if unknown := set(outputs) - set(signature.outputs):
            raise Refused(f"output tensor alias not found in signature: {_set(unknown)} of {_set(signature.outputs)}")
        if len(set(outputs)) < len(outputs):
            raise Refused(f"duplicate output tensor alias in {list(outputs)}")
        fetches = {name: signature.outputs[name].name for name in outputs or sorted(signature.outputs)}
        try:
            answer = self._session.run(fetches, {signature.inputs[name].name: inputs[name] for name in inputs})
        except tf.errors.OpError as error:
            raise _refused(error) from None
        except UnicodeDecodeError as error:
            # TensorFlow's message may quote bytes of the request that are not text.
            raise Refused(_plain(error.object.decode(errors="replace"))) from None
        for name, value in answer.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise Refused(f"output `{name}` is NaN or infinite", "INTERNAL")
        return dict(answer)


def _check_inputs(signature: Any, inputs: Mapping[str, np.ndarray]) -> None:
    sent, wanted = set(inputs), set(signature.inputs)
    if sent != wanted:
        raise Refused(
            f"input size does not match signature: {len(sent)}!={len(wanted)} len({_set(sent)}) != "
            f"len({_set(wanted)}). Sent extra: {_set(sent - wanted)}. Missing but required: {_set(wanted - sent)}."
        )
    for name, array in inputs.items():
        spec = tf.TensorSpec(signature.inputs[name].tensor_shape, signature.inputs[name].dtype)
        found = tf.as_dtype(array.dtype)
        if found != spec.dtype or not spec.shape.is_compatible_with(array.shape):
            raise Refused(
                f"input `{name}` takes {spec.dtype.name} {spec.shape}, but {found.name} {array.shape} is provided"
            )


def _refused(error: tf.errors.OpError) -> Refused:
    return Refused(_plain(error.message) or type(error).__name__, _CODE_NAMES.get(error.error_code, "UNKNOWN"))


def _plain(message: str) -> str:
    """TensorFlow's message, without the position in the graph."""
    message = message.removeprefix("Graph execution error:\n\n")
    return message.split("\n\t [[")[0].split("\n\nOriginal stack trace")[0].strip()


def _set(names: Collection[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
