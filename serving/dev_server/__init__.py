"""A development server that answers as TensorFlow Serving does, for machines without its binary or Docker.

`running` serves folders of versions over REST and gRPC from a thread of this process.
"""

from mixrank.serving.dev_server.batching import Batching
from mixrank.serving.dev_server.server import DevelopmentServer, running

__all__ = ["Batching", "DevelopmentServer", "running"]
