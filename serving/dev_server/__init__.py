"""A development server that answers as TensorFlow Serving does, for machines without its binary or Docker.

rest -> json_tensors      REST: a request's route, then its JSON as arrays
grpc_service -> messages  gRPC: the same with protobuf messages
repository                chooses the version that answers; follows the folders of versions and models.config
loaded_model              one version in memory; computes the answer
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
