"""Errors that suggest the nearest valid name, and the base class of all declarations, which uses them."""

from __future__ import annotations

import difflib
import errno
import os
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from mixrank.schemas.safe_text import shown

_NO_LOCKS = ": the file system has no locks (`flock`); choose a folder on one that has"
# What to do about a file system that does not do what is asked of it.
REMEDIES = {
    **dict.fromkeys((errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS), _NO_LOCKS),
    errno.ENOSPC: ": free some space or files there (`df -h`, `df -i`), and give the command again",
    errno.EDQUOT: ": free some of your share, and give the command again",
    errno.EFBIG: ": raise the limit (`ulimit -f`), and give the command again",
    errno.EROFS: ": choose a folder that can be written to",
    errno.EACCES: ": ask for the right to it, or choose another folder",
    errno.EPERM: ": ask for the right to it, or choose another folder",
    errno.EIO: ": the disk does not work; look into the system's log (`dmesg`)",
}
FAULTS = {os.strerror(code): code for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO)}


def nearest(name: str, options: Iterable[str]) -> str:
    """The hint `; did you mean X?` for a misspelt name, or the list of options if nothing is close.

    Args:
        name: What was written.
        options: What could have been written.

    Returns:
        A clause that starts with `; `, or an empty string if there are no options at all.

    >>> nearest("num_layer", ["num_layers", "heads"])
    '; did you mean `num_layers`?'
    """
    options = sorted(set(options))
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.6)
    if close:
        return f"; did you mean `{close[0]}`?"
    if options:
        return f"; expected one of {', '.join(f'`{option}`' for option in options)}"
    return ""


def readable(error: Exception) -> str:
    """An error in words: pydantic's as `train.epochs: Input should be ..., received 0`, one line per problem; the
    system's as `FILE: no space left on device: free some, and give the command again`.
    """
    if isinstance(error, OSError) and error.errno:
        where = f"`{error.filename}`: " if error.filename else ""
        reason = os.strerror(error.errno)
        return f"{where}{reason[:1].lower()}{reason[1:]}{REMEDIES.get(error.errno, '')}"
    if fault := next((reason for reason in FAULTS if reason in str(error)), None):
        # Libraries wrap it in pages of their own.
        (line, *_) = (line.strip() for line in str(error).splitlines() if fault in line)
        return f"{line[:300]}{REMEDIES[FAULTS[fault]]}"
    if not isinstance(error, ValidationError):
        return str(error)
    lines = []
    for problem in error.errors():
        where = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        # Our own rules say what they received.
        told = problem["type"] in ("value_error", "missing") or isinstance(problem["input"], dict)
        message += "" if told else f", received {shown(problem['input'])}"
        lines.append(f"{where}: {message}" if where else message)
    return "\n".join(lines)


class Declaration(BaseModel):
    """Frozen pydantic model that refuses unknown keys by naming the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _check_keys(cls, values: Any) -> Any:
        for key in values if isinstance(values, dict) else ():
            if key not in cls.model_fields:
                raise ValueError(f"{cls.__name__} has no field `{key}`{nearest(key, cls.model_fields)}")
        return values
