from . import layers as layers
from . import models as models
from . import schemas as schemas
from . import testing as testing
from .layers.ranking import Ranker as Ranker
from .layers.ranking import build_ranker as build_ranker
from .layers.ranking import load as load
from .layers.ranking import request_ranker as request_ranker
