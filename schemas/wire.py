"""The bytes of a tf.Example, written without TensorFlow.

A tf.Example is a map from column name to a list of ints, floats or byte strings. Rows of a log repeat most of their
values, so whoever writes many rows encodes each distinct value once and joins the pieces; protobuf allows that because
a message is the concatenation of its fields.

Source: the protobuf encoding guide and `tensorflow/core/example/{example,feature}.proto`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import lru_cache

from mixrank.schemas.features import Kind

# Feature is a oneof {bytes_list = 1, float_list = 2, int64_list = 3}; all three are length-delimited (wire type 2).
_FEATURE_TAG = {"str": b"\x0a", "float": b"\x12", "int": b"\x1a"}
_FIELD_1, _FIELD_2 = b"\x0a", b"\x12"
_ONE_BYTE = [bytes([number]) for number in range(0x80)]


def varint(number: int) -> bytes:
    """Base-128 encoding of a signed 64-bit integer; negative numbers take ten bytes.

    >>> varint(300)
    b'\\xac\\x02'
    """
    if 0 <= number < 0x80:
        return _ONE_BYTE[number]
    number &= 0xFFFF_FFFF_FFFF_FFFF
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def payload(kind: Kind, values: Iterable[int | float | str | bytes]) -> bytes:
    """Bytes of a value list without its length; payloads of one kind may be joined.

    Args:
        kind: "int", "float" (stored in 32 bits) or "str" (text is stored as UTF-8).
        values: the values, in order.
    """
    if kind == "int":
        return b"".join(varint(value) for value in values)  # type: ignore[arg-type]
    if kind == "float":
        return b"".join(struct.pack("<f", value) for value in values)
    texts = [value.encode() if isinstance(value, str) else value for value in values]
    return b"".join(_FIELD_1 + varint(len(text)) + text for text in texts)  # type: ignore[arg-type, operator]


# A log repeats few names and sizes.
@lru_cache(maxsize=65_536)
def header(name: str, kind: Kind, size: int) -> bytes:
    """The bytes before a payload of `size` bytes in the map entry of column `name`."""
    # Byte strings are single fields of their list; numbers are packed into one field.
    packed = b"" if kind == "str" or size == 0 else _FIELD_1 + varint(size)
    key = name.encode()
    before_list = _FEATURE_TAG[kind] + varint(len(packed) + size) + packed
    before_feature = _FIELD_1 + varint(len(key)) + key + _FIELD_2 + varint(len(before_list) + size)
    return _FIELD_1 + varint(len(before_feature) + len(before_list) + size) + before_feature + before_list


def entry(name: str, kind: Kind, values: Iterable[int | float | str | bytes]) -> bytes:
    """The map entry of one column; an empty list is an entry too, so that the column stays present."""
    body = payload(kind, values)
    return header(name, kind, len(body)) + body


def example(entries: Iterable[bytes]) -> bytes:
    """A serialized tf.Example from the map entries of its columns."""
    body = b"".join(entries)
    return _FIELD_1 + varint(len(body)) + body
