"""Text from outside, made fit to be shown: in a terminal, a log, a page, a plot, an error."""

from __future__ import annotations

import re
import reprlib
from typing import Any

LONGEST_VALUE, LONGEST_LINE = 300, 1000
# Control characters apart from tab and line feed: terminals obey them, XML forbids them. Then marks that reverse the
# order of text, line separators that no editor shows, lone surrogates, and two code points that are no characters.
_UNPRINTABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)

MASK = "***"
# Where a secret may be named instead of given.
REFERENCES = ("env:", "file:")
_NAMED = "|".join(REFERENCES)
_SECRET_NAME = (
    r"(?:[\w-]*[_-])?(?:secret|password|passwd|passphrase|token|credentials?|api[_-]?key|access[_-]?key(?:[_-]?id)?"
    r"|secret[_-]?key|private[_-]?key|account[_-]?key|signature)"
)
_SECRETS = (
    # scheme://user:password@host
    (re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^\s/@'\"<>]+@", re.I), rf"\1{MASK}@"),
    # The same where a path has swallowed a slash.
    (re.compile(r"(\b[a-z][a-z0-9+.-]*:/)[^\s/@:'\"<>]+:[^\s/@'\"<>]+@", re.I), rf"\1{MASK}@"),
    # --s3_secret_access_key=..., password=..., &token=...
    (
        re.compile(rf"((?<![\w-])-{{0,2}}{_SECRET_NAME}\s?=\s?['\"]?)(?!{_NAMED})[^\s'\",;&<>\])}}]+", re.I),
        rf"\1{MASK}",
    ),
    # "password": "...", as JSON and Python write it; password: ... as YAML does
    (re.compile(rf"((['\"]){_SECRET_NAME}\2\s*:\s*(['\"]))(?!{_NAMED})(?:(?!\3).)+", re.I), rf"\1{MASK}"),
    (re.compile(rf"(^[ -]*{_SECRET_NAME}:[ ]+)(?!{_NAMED})\S+$", re.I | re.M), rf"\1{MASK}"),
    (re.compile(r"(\bBearer\s+)[\w.~+/=-]{8,}", re.I), rf"\1{MASK}"),
    # Key identifiers of AWS; signed JSON tokens; keys in PEM
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), MASK),
    (re.compile(r"\beyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"), MASK),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.S), MASK),
)
# Values that were read from where they are named; a short one would mask half of a text.
_READ: set[str] = set()
_SHORTEST_SECRET = 6
_SECRET_OPTION = re.compile(rf"--{_SECRET_NAME}", re.I)


def printable(text: str) -> str:
    r"""The text with every character escaped that a terminal would obey, or that XML cannot hold.

    Tabs and line feeds stay.

    >>> printable("red \x1b[31malert")
    'red \\x1b[31malert'
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def masked(text: str) -> str:
    """The text without what looks like a password, key or token.

    >>> masked("http://me:hunter2@host, --s3_secret_access_key=abc, --s3_secret_access_key=env:KEY")
    'http://***@host, --s3_secret_access_key=***, --s3_secret_access_key=env:KEY'
    """
    for secret in _READ:
        text = text.replace(secret, MASK)
    for pattern, replacement in _SECRETS:
        text = pattern.sub(replacement, text)
    return text


def brief(text: str) -> str:
    """An error of any length for people: of each long line, the beginning and the end.

    >>> len(brief("x" * 10**6))
    1000
    """
    half = LONGEST_LINE // 2
    lines = (
        line if len(line) <= LONGEST_LINE else f"{line[: half - 2]} .. {line[-half + 2 :]}"
        for line in text.splitlines()
    )
    return "\n".join(lines)


def never_show(secret: str) -> None:
    """From now on `masked` hides this value wherever it stands."""
    if len(secret) >= _SHORTEST_SECRET:
        _READ.add(secret)


def safe(text: str) -> str:
    """The text as it may be shown: `masked` and `printable`."""
    return printable(masked(text))


def safe_values(values: Any) -> Any:
    """The same nested dicts, lists and tuples with `safe` texts; a key that names a secret hides its value."""
    if isinstance(values, str):
        return safe(values)
    if isinstance(values, dict):
        return {
            safe_values(key): MASK
            if isinstance(value, str) and names_secret(f"--{key}") and not value.startswith(REFERENCES)
            else safe_values(value)
            for key, value in values.items()
        }
    if isinstance(values, list | tuple):
        return type(values)(map(safe_values, values))
    return values


def names_secret(option: str) -> bool:
    """Whether an option such as `--s3_secret_access_key` takes a secret.

    >>> names_secret("--s3_secret_access_key"), names_secret("--num_tokens")
    (True, False)
    """
    return _SECRET_OPTION.fullmatch(option) is not None


_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = _BRIEF.maxlong = LONGEST_VALUE
_BRIEF.maxlist = _BRIEF.maxtuple = _BRIEF.maxdict = 20


def shown(value: Any) -> str:
    """A value for an error: its `repr`, at most 300 characters and computed from a part of a long value.

    >>> shown([1, "a"]), len(shown("a" * 10**6))
    ("[1, 'a']", 300)
    """
    text = _BRIEF.repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[: LONGEST_VALUE - 3]}..."
