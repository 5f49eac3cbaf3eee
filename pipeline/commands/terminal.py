"""Shared by all `mixrank` commands: the console, errors, and the arguments that name a config."""

from __future__ import annotations

import importlib.util
import inspect
import os
import shlex
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from mixrank.schemas.safe_text import brief, safe


class SafeConsole(Console):
    """A terminal that what is printed cannot command: no markup, no control characters, no secrets.

    Args:
        options: of `rich.console.Console`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, highlight=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(safe(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        # Texts with styles come here without `render_str`.
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=safe(segment.text))


# Rich assumes 80 columns where the output is not a terminal, which would wrap the numbers of most tables.
console = SafeConsole(width=None if sys.stdout.isatty() or "COLUMNS" in os.environ else 160)
errors = SafeConsole(stderr=True)

Extra = Literal["layers", "pipeline", "mlflow"]
# A module that only this extra installs.
MODULES: dict[Extra, str] = {"layers": "keras", "pipeline": "tfx", "mlflow": "mlflow"}
# TFX pins packages that only uv overrides, by settings in pyproject.toml.
INSTALL: dict[Extra, str] = {
    "layers": "pip install 'mixrank[layers]'",
    "pipeline": "run `make install` in a checkout of mixrank",
    "mlflow": "run `make install STORES=mlflow` in a checkout of mixrank",
}
Config = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped config (movielens, kuairand, simulated).")
]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", help="Override a value of the config, such as train.epochs=2; repeatable.")
]

Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for the command that is using the run folder (default: refuse).")
]
Unverified = Annotated[
    bool, typer.Option("--unverified", help="Do not compare the model's files with their SHA-256 sums.")
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


def guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose errors are one readable message and exit code 1, with an option --debug."""

    @wraps(function)
    def guard(*args: Any, debug: bool = False, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            errors.print("interrupted; run the same command again to resume")
            raise typer.Exit(130) from None
        except Exception as error:
            if debug:
                errors.print(brief(traceback.format_exc()), soft_wrap=True)
                raise typer.Exit(1) from None
            from mixrank.schemas.naming import readable  # Pydantic takes a while; `--help` goes without it.

            errors.print("error:", style="bold red", end=" ")
            errors.print(brief(readable(error)) or type(error).__name__, soft_wrap=True)
            if not (isinstance(error, ValueError) or (isinstance(error, OSError) and error.errno)):
                errors.print("run it again with --debug for the traceback", style="dim")
            raise typer.Exit(1) from None

    # Typer reads the signature; it must see evaluated types and the option that every command has.
    signature = inspect.signature(function, eval_str=True)
    option = inspect.Parameter("debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Debug)
    parameters = [*signature.parameters.values(), option]
    del guard.__wrapped__
    guard.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    guard.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return guard


def alone(folder: Path, command: str, wait: bool) -> AbstractContextManager[None]:
    """Keeps the other commands out of a run folder.

    Args:
        folder: of the run; one that does not exist has nothing to keep.
        command: `run` of `mixrank run`.
        wait: bool. Wait for the command that is at work there, and say so; else it is an error.
    """
    from mixrank.schemas.files import locked

    def say(holder: str) -> None:
        errors.print(f"{holder}; waiting for it", style="dim", soft_wrap=True)

    if not folder.is_dir():
        return nullcontext()
    return locked(
        folder, f"mixrank {command}", wait=say if wait else None, hint="give --wait to wait for it, or stop it"
    )


def needs(extra: Extra) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A command that is refused before it starts if an extra of mixrank is not installed."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def checked(*args: Any, **kwargs: Any) -> Any:
            require(extra, f"`mixrank {function.__name__.rstrip('_')}`")
            return function(*args, **kwargs)

        return checked

    return decorate


def arguments(config: str, overrides: Sequence[str] | None) -> str:
    """A config and its overrides as they are given on the command line, for the command to run next.

    >>> arguments("movielens", ["train.epochs=2", "train.early_stopping={metric: click.auc}"])
    "movielens --set train.epochs=2 --set 'train.early_stopping={metric: click.auc}'"
    """
    return " ".join([shlex.quote(config), *(f"--set {shlex.quote(override)}" for override in overrides or [])])


def require(extra: Extra, what: str) -> None:
    """Checks that an extra of mixrank is installed.

    Args:
        extra: its name.
        what: what needs it, for the message.

    Raises:
        ValueError: if it is not.
    """
    if importlib.util.find_spec(MODULES[extra]) is None:
        raise ValueError(f"{what} needs mixrank[{extra}], which is not installed: {INSTALL[extra]}")
