"""gRPC status errors, and the HTTP status of each."""

from __future__ import annotations

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


class Refused(Exception):
    """A refused request: a gRPC status with a message.

    Args:
        code: name of a gRPC status; INVALID_ARGUMENT for a malformed request.
        message: the reason, for the caller.
    """

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.code, self.http_status = code, HTTP_STATUS.get(code, 500)
