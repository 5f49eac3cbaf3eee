from .cross import Cross as Cross
from .cross import CrossMixture as CrossMixture
from .dcnv2 import DCNv2 as DCNv2
