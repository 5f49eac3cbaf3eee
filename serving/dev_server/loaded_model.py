"""One version of a model in memory."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import rewriter_config_pb2

from mixrank.serving.base import check_saved_model
from mixrank.serving.dev_server.errors import Refused, invalid, of_tensorflow, plain

DEFAULT_SIGNATURE = "serving_default"
_INIT = "__saved_model_init_op"


@dataclass(frozen=True)
class TensorInfo:
    """An input or output of a signature.

    Args:
        tensor: its name in the graph.
        dtype: its type.
        shape: its sizes, None where a request decides; None as a whole if even the rank is open.
    """

    tensor: str
    dtype: tf.DType
    shape: tuple[int | None, ...] | None

    def __str__(self) -> str:
        sizes = "any" if self.shape is None else ", ".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.dtype.name} ({sizes})"

    def accepts(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of this shape fits."""
        return tf.TensorShape(shape).is_compatible_with(tf.TensorShape(self.shape))


@dataclass(frozen=True)
class Signature:
    """What a version can be asked for.

    Args:
        name: its name.
        inputs, outputs: name -> tensor.
    """

    name: str
    inputs: dict[str, TensorInfo]
    outputs: dict[str, TensorInfo]

    @property
    def has_batch_axis(self) -> bool:
        """Whether all inputs and outputs begin with an axis of open size, so that requests can be merged along it."""
        infos = [*self.inputs.values(), *self.outputs.values()]
        return all(info.shape is not None and info.shape[:1] == (None,) for info in infos)

    def check_names(self, inputs: Iterable[str]) -> None:
        """Refuses other inputs than those of the signature.

        Raises:
            Refused: INVALID_ARGUMENT, naming both sets.
        """
        sent, wanted = set(inputs), set(self.inputs)
        if sent != wanted:
            raise invalid(
                f"input size does not match signature: {len(sent)}!={len(wanted)} len({_set(sent)}) != "
                f"len({_set(wanted)}). Sent extra: {_set(sent - wanted)}. Missing but required: {_set(wanted - sent)}."
            )

    def check_shapes(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Refuses values whose shapes do not fit.

        Raises:
            Refused: INVALID_ARGUMENT, naming the input.
        """
        for name, info in self.inputs.items():
            if not info.accepts(inputs[name].shape):
                raise invalid(f"input `{name}` of signature `{self.name}` takes {info}, received {inputs[name].shape}")

    def select(self, outputs: Sequence[str]) -> list[str]:
        """The outputs to compute: those asked for, or all.

        Raises:
            Refused: INVALID_ARGUMENT for one that does not exist or is named twice.
        """
        for number, name in enumerate(outputs):
            if name not in self.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {name} Outputs expected to be in the set "
                    f"{_set(self.outputs)}."
                )
            if name in outputs[:number]:
                raise invalid(f"duplicate output tensor alias: {name}")
        return list(outputs) or sorted(self.outputs)


class LoadedModel:
    """A SavedModel in the form in which TensorFlow Serving loads it: a session over its graph.

    Args:
        folder: the SavedModel.

    Raises:
        ValueError: if its files are not complete.
        tf.errors.OpError: if TensorFlow cannot load it; other errors are possible where files are damaged.
    """

    def __init__(self, folder: Path) -> None:
        check_saved_model(folder)
        self._session = tf.compat.v1.Session(graph=tf.Graph(), config=_session_config())
        try:
            with self._session.graph.as_default():
                meta = tf.compat.v1.saved_model.loader.load(self._session, ["serve"], str(folder))
        except BaseException:
            self._session.close()
            raise
        self.definitions: dict[str, Any] = dict(meta.signature_def)
        self.signatures = {name: _signature(name, one) for name, one in self.definitions.items() if name != _INIT}
        self._users, self._closed, self._changed = 0, False, threading.Condition()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Keeps the model loaded meanwhile.

        Raises:
            Refused: UNAVAILABLE once it is being unloaded.
        """
        with self._changed:
            if self._closed:
                raise Refused("UNAVAILABLE", "this version has been unloaded")
            self._users += 1
        try:
            yield
        finally:
            with self._changed:
                self._users -= 1
                self._changed.notify_all()

    def run(self, signature: Signature, inputs: Mapping[str, np.ndarray], outputs: Sequence[str]) -> dict[str, Any]:
        """Computes some outputs of a signature from checked inputs.

        Raises:
            Refused: what TensorFlow says of the inputs; INTERNAL for an output that is no number.
        """
        with self.in_use():
            try:
                answer = self._session.run(
                    {name: signature.outputs[name].tensor for name in outputs},
                    {info.tensor: inputs[name] for name, info in signature.inputs.items()},
                )
            except tf.errors.OpError as error:
                raise of_tensorflow(error) from None
            except UnicodeDecodeError as error:
                # TensorFlow's message quotes bytes of the request that are no text.
                raise invalid(plain(error.object.decode(errors="replace"))) from None
        for name, value in answer.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise Refused("INTERNAL", f"output `{name}` of signature `{signature.name}` is NaN or infinite")
        return dict(answer)

    def close(self) -> None:
        """Frees the memory, after the last user has left."""
        with self._changed:
            # Requests that have chosen this version may still begin to run it.
            self._changed.wait_for(lambda: not self._users)
            self._closed = True
        self._session.close()


def _signature(name: str, definition: Any) -> Signature:
    return Signature(name, _infos(definition.inputs), _infos(definition.outputs))


def _infos(tensors: Any) -> dict[str, TensorInfo]:
    infos = {}
    for name in sorted(tensors):
        shape = tf.TensorShape(tensors[name].tensor_shape)
        sizes = None if shape.rank is None else tuple(shape.as_list())
        infos[name] = TensorInfo(tensors[name].name, tf.as_dtype(tensors[name].dtype), sizes)
    return infos


def _set(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"


def _session_config() -> tf.compat.v1.ConfigProto:
    config = tf.compat.v1.ConfigProto()
    # There are no gradients whose memory could be saved; the attempt fills the terminal with warnings.
    config.graph_options.rewrite_options.memory_optimization = rewriter_config_pb2.RewriterConfig.NO_MEM_OPT
    return config
