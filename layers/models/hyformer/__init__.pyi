from .history_attention import HistoryAttention as HistoryAttention
from .history_encoder import HistoryEncoder as HistoryEncoder
from .hyformer import HyFormer as HyFormer
from .query_block import QueryBlock as QueryBlock
