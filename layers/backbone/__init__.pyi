from .base import Backbone as Backbone
from .base import Widths as Widths
from .base import all_vectors as all_vectors
from .base import backbone_of as backbone_of
from .fields import FieldBackbone as FieldBackbone
from .registration import register as register
from .routing import routing_report as routing_report
from .tokens import TokenBackbone as TokenBackbone
