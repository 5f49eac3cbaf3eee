"""gRPC status errors, the HTTP status of each, and the limits of a request."""

from __future__ import annotations

import json
from typing import Any

HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
# Bytes of a request, unzipped, and of each of its tensors.
REQUEST_BYTES = 16 << 20
# Characters of a value in a message, and of a whole message.
VALUE, MESSAGE = 300, 2000


class Refused(Exception):
    """A refused request: a gRPC status with a message.

    Args:
        code: name of a gRPC status; INVALID_ARGUMENT for a malformed request.
        message: the reason, for the caller; what is beyond `MESSAGE` characters is cut off.
    """

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(_cut(message, MESSAGE))
        self.code, self.http_status = code, HTTP_STATUS.get(code, 500)


def brief(value: Any) -> str:
    """A value as JSON, at most `VALUE` characters of it; the rest is not even made."""
    text = ""
    for piece in json.JSONEncoder().iterencode(value):
        text += piece
        if len(text) > VALUE:
            break
    return _cut(text, VALUE)


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[:length]}..."
