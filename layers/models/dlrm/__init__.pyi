from .dlrm import DLRM as DLRM
from .interaction import DotInteraction as DotInteraction
