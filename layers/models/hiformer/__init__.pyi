from .field_attention import CompositeProjection as CompositeProjection
from .field_attention import FieldAttention as FieldAttention
from .hiformer import Hiformer as Hiformer
