"""Needs: what of a spec a model cannot do without, and the names in a parameter that must be of the spec.

A model's file states both once, as a literal `NEEDS` and by the types `FieldName` and `TaskName`. The model checks them
when it is built, the registry before Keras is imported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from mixrank.schemas.naming import nearest

# Texts in a parameter that name features and histories, or tasks, of the spec.
FieldName: TypeAlias = str
TaskName: TypeAlias = str

# Need -> its words, and how it is declared.
_WORDS = {
    **{
        window: (f'a history with window="{window}"', f'History(..., window="{window}")')
        for window in ("before", "within")
    },
    **{group: (f'features of group "{group}"', "at least one") for group in ("user", "item", "context")},
}


def check_needs(
    model: str, needs: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any], declared: Collection[str]
) -> None:
    """Refuses a spec that lacks what a model reads.

    Args:
        model: its name, for the message.
        needs: window or group -> {parameter: the value with which the model does without it}.
        values: parameter -> value.
        declared: windows and groups that the spec has.

    Raises:
        ValueError: naming what is missing, and what to declare or set.

    >>> check_needs("hemix", {"within": {"realtime_sequence": False}}, {"realtime_sequence": True}, ["before"])
    Traceback (most recent call last):
    ValueError: hemix reads a history with window="within", which the spec does not declare; declare \
History(..., window="within") or set `realtime_sequence` to False
    """
    if (need := _unmet(needs, values, declared)) is None:
        return
    what, how = _WORDS[need]
    # A setting that leads to the next refusal is no advice.
    helpful = {n: value for n, value in needs[need].items() if not _unmet(needs, {**values, n: value}, declared)}
    settings = "".join(f" or set `{name}` to {value!r}" for name, value in helpful.items())
    raise ValueError(f"{model} reads {what}, which the spec does not declare; declare {how}{settings}")


def _unmet(needs: Mapping[str, Mapping[str, Any]], values: Mapping[str, Any], declared: Collection[str]) -> str | None:
    for need, without in needs.items():
        if need not in declared and all(values[name] != value for name, value in without.items()):
            return need
    return None


def check_named(parameter: str, value: Any, known: Iterable[str], what: str) -> None:
    """Refuses a name that the spec does not have.

    Args:
        parameter: for the message.
        value: a name, or nested tuples of names and other values.
        known: names of the spec.
        what: what they are, such as "a task".

    Raises:
        ValueError: naming the nearest one.
    """
    for name in texts(value):
        if name not in known:
            raise ValueError(f"`{parameter}` names {name!r}, which is not {what}{nearest(name, known)}")


def texts(value: Any) -> Iterator[str]:
    """All texts in nested tuples and lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple | list):
        for each in value:
            yield from texts(each)
