"""Damaged bytes and JSON values."""

from __future__ import annotations

import json
import random
from typing import Any

# fmt: off
TOKENS = [
    b"", b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"NaN", b"1e400", b"-1", b"\x00", b"\xff", b"\xed\xa0\x80",
    b"..", b"[" * 2000, b"9" * 5000, b"\r\n", b"%00", b"\xef\xbb\xbf", "é".encode() * 50, b"\x1b[31m", b"\n---\n",
]
ODD: list[Any] = [
    None, True, False, 0, -1, 2**31, 2**63, -(2**63) - 1, 10**400, 1e38, 3.5e38, 1e308, -0.0, 0.5, float("nan"),
    float("inf"), "", "a", "\x00", "\x1b]0;x\x07", "é" * 300, "x" * 50_000, "\ud800", "../..", [], {}, [[]], [[[[1]]]],
    [None], {"b64": "AAAA"}, {"b64": "!"}, {"b64": 1}, [1, "a"], [[1], [1, 2]], {"": 1},
]
# fmt: on


def damaged(rng: random.Random, data: bytes) -> bytes:
    """Bytes with some of them cut off, left out, repeated, replaced or flipped."""
    found = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at, length = rng.randrange(len(found) + 1), rng.choice([0, 1, 2, 8, 40, 400])
        match rng.randrange(5):
            case 0:
                del found[at : len(found) if rng.random() < 0.3 else at + length]
            case 1:
                found[at:at] = found[at : at + length]
            case 2 if at < len(found):
                found[at] ^= 1 << rng.randrange(8)
            case 3:
                found[at : at + length] = rng.randbytes(length)
            case _:
                found[at : at + length] = rng.choice(TOKENS)
    return bytes(found)


def changed(rng: random.Random, value: Any) -> Any:
    """A JSON value with something in it replaced, left out, added or put one level deeper."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key, found = rng.choice(list(value)), dict(value)
        match rng.randrange(8):
            case 0:
                del found[key]
            case 1:
                found[rng.choice(["", "x", "b64", "instances", "inputs", key + "\x00", "__class__"])] = rng.choice(ODD)
            case _:
                found[key] = changed(rng, value[key])
        return found
    if isinstance(value, list) and value and rng.random() < 0.8:
        at, rest = rng.randrange(len(value)), list(value)
        match rng.randrange(6):
            case 0:
                del rest[at]
            case 1:
                rest.insert(at, rng.choice([*ODD, rest[at]]))
            case _:
                rest[at] = changed(rng, rest[at])
        return rest
    return [value] if rng.random() < 0.1 else rng.choice(ODD)


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()
