from .attentional_gru import AttentionalGRU as AttentionalGRU
from .dien import DIEN as DIEN
from .next_event import NextEventLoss as NextEventLoss
