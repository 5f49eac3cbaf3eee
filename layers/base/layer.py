"""The base of all layers: a hyper-parameter is stated once, in the signature of the constructor."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, TypeAlias, get_args, get_type_hints

import keras
from pydantic import TypeAdapter

from mixrank.layers.base.arguments import adapter, as_tuples, check_argument

# A tensor of the backend, or a symbolic one; Keras has no type for both.
Tensor: TypeAlias = Any
Shape: TypeAlias = tuple[Any, ...]
# Names, configs or objects; the module that reads and writes them stands beside.
Activation = Annotated[Any, keras.activations]
Initializer = Annotated[Any, keras.initializers]

_OF_KERAS = {"self", "name", "dtype", "trainable", "autocast", "activity_regularizer"}


class Layer(keras.Layer):
    """A Keras layer whose constructor only declares its hyper-parameters.

    What the signature of `__init__` declares with a type is checked (choices of a `Literal`, bounds, type), kept as an
    attribute of the same name, and written to the config: lists as tuples, an `Activation` as its function. After
    `super().__init__(**kwargs)` all attributes are there, so that a constructor only checks what relates several of
    them. A subclass that declares an argument of its base again gives it another default or type.

    Attributes:
        removed: arguments of earlier versions -> the value that this version has built in. A config may still hold
            them with that value.

    Raises:
        ValueError: a value of another type, out of bounds or outside the choices.

    >>> class Scale(Layer):
    ...     def __init__(self, *, by: float = 2.0, **kwargs) -> None:
    ...         super().__init__(**kwargs)
    ...
    ...     def call(self, x):
    ...         return self.by * x
    >>> Scale(by=3.0).get_config()["by"]
    3.0
    """

    removed: ClassVar[dict[str, Any]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__init__" in vars(cls):
            cls.__init__ = _keeping(cls.__init__)  # type: ignore[method-assign]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, value in self.__dict__.pop("_given", {}).items():
            setattr(self, name, value)

    def get_config(self) -> dict[str, Any]:
        parameters = _parameters(type(self))  # type: ignore[arg-type]
        kept = {name: _written(getattr(self, name), module) for name, module in parameters.items()}
        return {**super().get_config(), **kept}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Layer:
        read = {name: _read(value) for name, value in config.items()}
        for base in cls.__mro__:
            for name, value in vars(base).get("removed", {}).items():
                if (came := as_tuples(read.pop(name, value))) != value:
                    raise ValueError(
                        f"`{name}` of {cls.__name__} was removed and is always {value!r} now, but the file holds "
                        f"{came!r}; train the model again"
                    )
        return super().from_config(read)

    def freeze(self) -> None:
        """Replaces what is constant after training by constants, in all layers inside; changes no output.

        Called before export.
        """
        for layer in self._layers:
            if isinstance(layer, Layer):
                layer.freeze()


def _keeping(init: Callable[..., None]) -> Callable[..., None]:
    """The constructor, which first checks and keeps its arguments."""
    signature = inspect.signature(init)

    @functools.wraps(init)
    def keeping(self: Layer, *args: Any, **kwargs: Any) -> None:
        # Keras cannot track attributes yet.
        given = self.__dict__.setdefault("_given", {})
        # An argument that a subclass declares again reaches its base by itself.
        taken = signature.bind_partial(self, *args, **kwargs).arguments
        kwargs |= {name: given[name] for name in _declared(init) if name in given and name not in taken}
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        for name, (kind, check) in _declared(init).items():
            if name not in given:
                value = as_tuples(bound.arguments[name])
                check_argument(name, check, value, of=f"layer `{kwargs['name']}`" if kwargs.get("name") else "")
                given[name] = kind.get(value) if kind else value
        init(self, *args, **kwargs)

    # Keras reads the signature without following wrappers.
    keeping.__signature__ = signature  # type: ignore[attr-defined]
    return keeping


@functools.cache
def _declared(init: Callable[..., None]) -> dict[str, tuple[Any, TypeAdapter]]:
    """Argument -> the Keras module that reads and writes it, if any, and its check."""
    hints = get_type_hints(inspect.unwrap(init), include_extras=True)
    names = [each.name for each in inspect.signature(init).parameters.values() if each.kind != each.VAR_KEYWORD]
    found = {}
    for name in names:
        if name in hints and name not in _OF_KERAS:
            modules = [each for each in get_args(hints[name])[1:] if inspect.ismodule(each)]
            found[name] = (modules[0] if modules else None, adapter(hints[name]))
    return found


@functools.cache
def _parameters(cls: type) -> dict[str, Any]:
    """Arguments of a class and its bases -> the Keras module that reads and writes them, if any."""
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if base is not Layer and issubclass(base, Layer) and "__init__" in vars(base):
            found |= {name: module for name, (module, _) in _declared(inspect.unwrap(vars(base)["__init__"])).items()}
    return found


def _written(value: Any, module: Any) -> Any:
    if module is not None:
        return module.serialize(value)
    if isinstance(value, tuple):
        return [_written(each, None) for each in value]
    return keras.saving.serialize_keras_object(value) if isinstance(value, keras.Layer) else value


def _read(value: Any) -> Any:
    if isinstance(value, list):
        return [_read(each) for each in value]
    if isinstance(value, dict) and "class_name" in value and "config" in value:
        return keras.saving.deserialize_keras_object(value)
    return value
