"""A plan as a Python file that declares the log, formatted as ruff would."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from mixrank.pipeline.starting.plan import Noted, Plan
from mixrank.schemas import CalendarDay, EventTime, History, Popularity, SplitByDay

WIDTH, STEP = 120, 4
# Given by position.
POSITIONAL = ("name", "column")


@dataclass(frozen=True)
class Word:
    """A name that stands for itself in the file, such as FIELDS."""

    text: str


# Written once, above the declaration, so that they are changed in one place.
CONSTANTS: dict[tuple[type, str], Word] = {
    (History, "of"): Word("FIELDS"),
    **{(kind, "timezone"): Word("ZONE") for kind in (CalendarDay, EventTime, Popularity, SplitByDay)},
}


@dataclass(frozen=True)
class Call:
    """A call, or a tuple or dict, whose arguments stand one below the other, with comments."""

    opening: str
    lines: tuple[tuple[str, Any, Noted], ...]
    closing: str


def python_file(plan: Plan, command: str) -> str:
    """The file's text.

    Args:
        plan: the log.
        command: that made it.
    """
    dataset = _dataset(plan)
    names = set(_names(dataset))
    constants = []
    if "ZONE" in names:
        constants += [*comments(plan.zone, 0), f"ZONE = {_literal(plan.zone.value)}"]
    if "FIELDS" in names:
        constants += ["# What a history keeps of every event.", f"FIELDS = {_code(plan.fields, 0, len('FIELDS = '))}"]
    head = f'"""Declared by `{command}`: look through the lines that begin with `# ?`."""'
    # What would end or change the docstring is not repeated.
    if len(head) > WIDTH or not head.isascii() or not head.isprintable() or set(command) & {'"', "\\"}:
        head = '"""Declared by `mixrank init`: look through the lines that begin with `# ?`."""'
    blank = [""] if constants else []
    body = f"DATASET = {_block(dataset, 0)}"
    return "\n".join([head, "", _imports(sorted(names - {"ZONE", "FIELDS"})), "", *constants, *blank, body, ""])


def _names(value: Any) -> Iterator[str]:
    """Names that an expression uses."""
    if isinstance(value, Word):
        yield value.text
    elif isinstance(value, Call):
        if value.opening[:-1]:
            yield value.opening[:-1]
        for _, part, _ in value.lines:
            yield from _names(part)
    elif isinstance(value, BaseModel):
        yield type(value).__name__
        for _, part in _parts(value)[1] or ():
            yield from _names(part)
    elif isinstance(value, tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _names(part)


def _imports(names: list[str]) -> str:
    line = f"from mixrank.schemas import {', '.join(names)}"
    if len(line) <= WIDTH:
        return line
    return "from mixrank.schemas import (\n" + "".join(f"    {name},\n" for name in names) + ")"


def _dataset(plan: Plan) -> Call:
    none = Noted(None)
    lines: list[tuple[str, Any, Noted]] = [
        ("spec", _spec(plan), none),
        ("source", _source(plan), none),
    ]
    return Call("Dataset(", tuple(lines), ")")


def _spec(plan: Plan) -> Call:
    none = Noted(None)
    lines: list[tuple[str, Any, Noted]] = [("name", plan.name, none)]
    for name in ("user", "item", "time", "scenario"):
        noted = getattr(plan, name)
        lines.append((name, noted.value, noted))
    if plan.request is not None:
        lines.append(("request", plan.request.value, plan.request))
    lines.append(("labels", _several(plan.labels), none))
    lines.append(("features", _several(plan.features), none))
    return Call("FeatureSpec(", tuple(lines), ")")


def _source(plan: Plan) -> Call:
    none = Noted(None)
    lines: list[tuple[str, Any, Noted]] = [("log", plan.log.value, plan.log)]
    if plan.joins:
        lines.append(("joins", _several(plan.joins), none))
    for name, rules in (("labels", plan.labels_from), ("derive", plan.derive), ("popularity", plan.popularity)):
        if rules:
            entries = tuple((_code(key, 0, 0), noted.value, noted) for key, noted in rules.items())
            lines.append((name, Call("{", entries, "}"), none))
    if plan.window is not None:
        lines.append(("window", plan.window.value, plan.window))
    lines.append(("split", plan.split.value, plan.split))
    return Call("LogSource(", tuple(lines), ")")


def _several(noted: Sequence[Noted]) -> Call | tuple[Any, ...]:
    if not any(each.why or each.doubt for each in noted):
        return tuple(each.value for each in noted)
    return Call("(", tuple(("", each.value, each) for each in noted), ")")


def _block(call: Call, indent: int) -> str:
    inner = indent + STEP
    lines = [call.opening]
    for name, value, noted in call.lines:
        lines += comments(noted, inner)
        if value is None:
            continue
        joiner = "" if not name else ": " if call.opening == "{" else "="
        lead = f"{' ' * inner}{name}{joiner}"
        # One column for the comma behind it.
        text = _block(value, inner) if isinstance(value, Call) else _code(value, inner, len(lead) + 1)
        lines.append(f"{lead}{text},")
    return "\n".join([*lines, " " * indent + call.closing])


def comments(noted: Noted, indent: int) -> list[str]:
    """The lines of a reason and a question."""
    lines = []
    for mark, text in (("# ", noted.why), ("# ? ", noted.doubt)):
        # What a file says must not end the comment.
        plain = re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text)
        if plain:
            lead = " " * indent
            lines += textwrap.wrap(
                plain,
                WIDTH,
                initial_indent=lead + mark,
                subsequent_indent=lead + "#" + " " * (len(mark) - 1),
                break_long_words=True,
                break_on_hyphens=False,
            )
    return lines


def _code(value: Any, indent: int, used: int) -> str:
    """An expression, broken as ruff breaks it if it does not fit.

    Args:
        value: a declaration, or a plain value.
        indent: of the line on which it begins.
        used: columns that this line needs besides.
    """
    flat = _flat(value)
    if used + len(flat) <= WIDTH:
        return flat
    opening, parts, closing = _parts(value)
    if not parts:
        return flat
    inner = indent + STEP
    body = ", ".join(f"{lead}{_flat(part)}" for lead, part in parts)
    # A collection is broken into one element per line, a call first into one line of arguments.
    if inner + len(body) <= WIDTH and not isinstance(value, tuple | dict):
        return f"{opening}\n{' ' * inner}{body}\n{' ' * indent}{closing}"
    lines = [f"{' ' * inner}{lead}{_code(part, inner, inner + len(lead) + 1)}," for lead, part in parts]
    return "\n".join([opening, *lines, " " * indent + closing])


def _flat(value: Any) -> str:
    opening, parts, closing = _parts(value)
    if parts is None:
        return opening
    comma = "," if isinstance(value, tuple) and len(value) == 1 else ""
    return opening + ", ".join(f"{lead}{_flat(part)}" for lead, part in parts) + comma + closing


def _parts(value: Any) -> tuple[str, list[tuple[str, Any]] | None, str]:
    """Opening, (what stands before it, part) of every part, closing; or the text of a plain value."""
    if isinstance(value, Word):
        return value.text, None, ""
    if isinstance(value, BaseModel):
        given = [name for name in type(value).model_fields if name in value.model_fields_set and name != "type"]
        parts = [
            ("" if name in POSITIONAL else f"{name}=", CONSTANTS.get((type(value), name)) or getattr(value, name))
            for name in given
        ]
        return f"{type(value).__name__}(", parts, ")"
    if isinstance(value, tuple):
        return "(", [("", each) for each in value], ")"
    if isinstance(value, dict):
        return "{", [(f"{_flat(key)}: ", each) for key, each in value.items()], "}"
    return _literal(value), None, ""


def _literal(value: Any) -> str:
    """Text in double quotes unless that needs more escapes, as ruff writes it."""
    if not isinstance(value, str):
        return repr(value)
    text = repr(value)
    if text[0] == '"' or '"' in value:
        return text
    return f'"{text[1:-1]}"'
