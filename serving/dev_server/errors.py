"""What the server refuses: a gRPC status with a message, and the HTTP status that goes with it."""

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
    """An answer other than scores.

    Args:
        code: name of a gRPC status; INVALID_ARGUMENT for a request that cannot be answered as it is.
        message: the reason, for the caller.
    """

    def __init__(self, message: str, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.code, self.http_status = code, HTTP_STATUS.get(code, 500)
