from .group_norm import GroupLayerNorm as GroupLayerNorm
from .mtgr import MTGR as MTGR
from .silu_attention import SiluAttentionBlock as SiluAttentionBlock
