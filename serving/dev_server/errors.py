"""What the server refuses, as a gRPC status with a message, and the HTTP status that goes with it."""

from __future__ import annotations

import grpc
import tensorflow as tf

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
_CODE_NAMES = {code.value[0]: code.name for code in grpc.StatusCode}


class Refused(Exception):
    """An answer that is no prediction.

    Args:
        code: name of a gRPC status.
        message: why, for whoever sent the request.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code

    @property
    def http_status(self) -> int:
        """What REST answers instead of the gRPC status."""
        return HTTP_STATUS.get(self.code, 500)


def invalid(message: str) -> Refused:
    """A request that cannot be answered as it is."""
    return Refused("INVALID_ARGUMENT", message)


def of_tensorflow(error: tf.errors.OpError) -> Refused:
    """TensorFlow's error, without the names of its nodes."""
    return Refused(_CODE_NAMES.get(error.error_code, "UNKNOWN"), plain(error.message) or type(error).__name__)


def plain(message: str) -> str:
    """What TensorFlow says, without where in the graph."""
    message = message.removeprefix("Graph execution error:\n\n")
    return message.split("\n\t [[")[0].split("\n\nOriginal stack trace")[0].strip()
