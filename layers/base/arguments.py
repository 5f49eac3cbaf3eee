"""Constructor arguments: their types with bounds and choices, and the one check of all of them."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PositiveInt, PydanticUserError, TypeAdapter, ValidationError

DropoutRate = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(gt=0, le=1)]
# Widths of the layers of a network that has at least one.
LayerWidths = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


def as_tuples(value: Any) -> Any:
    """A value with tuples in place of its lists, as constructors take them."""
    return tuple(as_tuples(each) for each in value) if isinstance(value, list | tuple) else value


def adapter(annotation: Any) -> TypeAdapter:
    """The check of one annotation."""
    try:
        return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:
        # A type of pydantic's own brings its own settings.
        return TypeAdapter(annotation)


def check_argument(name: str, kind: TypeAdapter, value: Any, of: str = "") -> None:
    """Refuses a value of another type, out of bounds or outside the choices.

    Args:
        name: of the argument, for the message.
        kind: `adapter` of its annotation.
        value: what came; tuples for lists.
        of: whose argument it is, for the message.

    Raises:
        ValueError: with the argument, what was expected and what came.

    >>> from typing import Literal
    >>> check_argument("norm", adapter(Literal["pre", "post"]), "past")
    Traceback (most recent call last):
    ValueError: `norm` must be pre or post, received 'past'
    """
    try:
        kind.validate_python(value, strict=True)
    except ValidationError as refused:
        errors = refused.errors(include_url=False)
        # Of a union, the member that fits the value's type tells most.
        first = next((each for each in errors if not each["type"].endswith("_type")), errors[0])
        every = "all " if any(isinstance(place, int) for place in first["loc"]) else ""
        expected = _expected(first)
        if kind.core_schema["type"] == "nullable":
            expected = f"{expected.replace(' or ', ', ')} or None"
        whose = f" of {of}" if of else ""
        raise ValueError(f"`{name}`{whose} must {every}be {expected}, received {value!r}") from None


def check_divides(width: int, of: str = "the token width", **divisor: int) -> None:
    """Refuses a number that does not divide a width.

    Args:
        width: what is divided.
        of: its name, for the message.
        divisor: name of the argument -> its value.

    >>> check_divides(8, heads=3)
    Traceback (most recent call last):
    ValueError: `heads` must divide the token width 8, received 3
    """
    for name, value in divisor.items():
        if width % value:
            raise ValueError(f"`{name}` must divide {of} {width}, received {value}")


def _expected(error: Any) -> str:
    bounds = error.get("ctx", {})
    match error["type"]:
        case "literal_error":
            return bounds["expected"].replace("'", "")
        case "greater_than_equal":
            return f"at least {bounds['ge']:g}"
        case "greater_than":
            whole = isinstance(error["input"], int)
            return f"at least {bounds['gt'] + 1}" if whole else f"above {bounds['gt']:g}"
        case "less_than":
            return f"below {bounds['lt']:g}"
        case "less_than_equal":
            return f"at most {bounds['le']:g}"
        case "too_short":
            return f"at least {bounds['min_length']} long"
        case "is_instance_of":
            return f"a {bounds['class']}"
    return f"a valid {error['type'].removesuffix('_type')}"
