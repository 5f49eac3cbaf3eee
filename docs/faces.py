"""Makes the API pages list the names of a room's `__init__.pyi` as its public names."""

from __future__ import annotations

from typing import Any

import griffe


class Faces(griffe.Extension):
    def on_package(self, *, pkg: griffe.Module, **kwargs: Any) -> None:
        for module in _modules(pkg):
            names = [name for name, member in module.members.items() if _is_public(module, member)]
            if names:
                module.exports = names


def _modules(module: griffe.Module) -> list[griffe.Module]:
    below = [each for each in module.members.values() if isinstance(each, griffe.Module)]
    return [module, *(found for each in below for found in _modules(each))]


def _is_public(module: griffe.Module, member: Any) -> bool:
    return module.is_init_module and member.is_alias and member.target_path.startswith(f"{module.path}.")
