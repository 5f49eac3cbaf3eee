"""Writes docs/commands.md from the command line itself: python docs/write_commands.py"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixrank.pipeline import cli

PAGE = Path(__file__).with_name("commands.md")
HEAD = """# Commands

This page is written by `python docs/write_commands.py`. Every command also takes `--debug`, which shows the traceback
of an error, and `--help`. An error is one readable message and exit code 1.
"""


def page() -> str:
    """The page as Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield HEAD.strip()
    for panel, listed in cli.PANELS.items():
        yield f"\n## {panel}"
        for name in listed:
            command = cli.load_command(name)
            yield from _command(f"mixrank {name}", command)
            for step, each in getattr(command, "commands", {}).items():
                yield from _command(f"mixrank {name} {step}", each)


def _command(name: str, command: Any) -> Iterator[str]:
    parameters = [each for each in command.params if each.name not in ("help", "debug")]
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    yield f"\n### {name}\n"
    yield command.help.replace("\n\n", "\n").strip()
    if parameters:
        yield "\n| argument or option | meaning | default |\n|---|---|---|"
    for each in [*arguments, *(each for each in parameters if each not in arguments)]:
        label = (each.metavar or each.name.upper()) if each in arguments else ", ".join(each.opts + each.secondary_opts)
        yield f"| `{label}` | {(each.help or '').replace('|', chr(92) + '|')} | {_default(each)} |"


def _default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    if isinstance(getattr(parameter, "show_default", None), str):
        return f"`{parameter.show_default}`"
    value = parameter.default
    return "" if value is None or value is False or value == [] else f"`{value}`"


if __name__ == "__main__":
    PAGE.write_text(page())
