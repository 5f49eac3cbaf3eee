from .block import MixFormerBlock as MixFormerBlock
from .cross_attention import PerHeadCrossAttention as PerHeadCrossAttention
from .head_mixing import HeadAttention as HeadAttention
from .head_mixing import HeadMixing as HeadMixing
from .mixformer import MixFormer as MixFormer
