"""Secrets in options of Beam: named in a config or on a command line, read where the pipeline runs.

`--s3_secret_access_key=env:NAME` is the value of an environment variable, `file:PATH` the text of a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from mixrank.schemas.safe_text import REFERENCES, names_secret, never_show, shown


def check_options(options: Iterable[str], where: str) -> tuple[str, ...]:
    """Options as they were given.

    Args:
        options: such as `--runner=FnApiRunner`.
        where: what the error calls them.

    Raises:
        ValueError: for one that is no option, or that gives a secret instead of naming it.
    """
    options = tuple(options)
    for option in options:
        name, _, value = option.partition("=")
        if not name.startswith("--"):
            raise ValueError(
                f"every entry of {where} is one option such as --runner=FnApiRunner, received {shown(option)}"
            )
        if names_secret(name) and not value.startswith(REFERENCES):
            raise ValueError(
                f"{where} must not hold the secret of {name}, which would be written into records and reports: "
                f"name an environment variable ({name}=env:NAME) or a file ({name}=file:/absolute/path)"
            )
    return options


def resolve(options: Iterable[str]) -> list[str]:
    """Options with the values that `env:` and `file:` name; none of these values is shown from now on.

    Raises:
        ValueError: for a variable that is not set, or a file that cannot be read.

    >>> resolve(["--runner=FnApiRunner"])
    ['--runner=FnApiRunner']
    """
    found = []
    for option in options:
        name, _, value = option.partition("=")
        if value.startswith(REFERENCES):
            option = f"{name}={_read(name, *value.split(':', 1))}"
        found.append(option)
    return found


def _read(option: str, kind: str, reference: str) -> str:
    if kind == "env":
        if reference not in os.environ:
            raise ValueError(f"{option} names the environment variable {reference}, which is not set")
        secret = os.environ[reference]
    else:
        try:
            secret = Path(reference).read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{option} names the file {reference}, which cannot be read: {error}") from None
    never_show(secret)
    return secret
