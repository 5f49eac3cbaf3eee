from .rankmixer import RankMixer as RankMixer
from .relu_moe import ReluMoE as ReluMoE
