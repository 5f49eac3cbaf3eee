"""The models by their class names, such as `mixrank.models.HeMix`; each is imported when it is first asked for."""

from typing import Any

from mixrank.layers import registry


def __getattr__(name: str) -> Any:
    for each in registry.names():
        if registry.model(each).class_name == name:
            return registry.load_class(each)
    raise AttributeError(f"module `{__name__}` has no model `{name}`")


def __dir__() -> list[str]:
    return sorted(registry.model(name).class_name for name in registry.names())
