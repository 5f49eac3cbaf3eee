from .hemix import HeMix as HeMix
from .interest_extraction import MixedQueryAttention as MixedQueryAttention
