from .mixed_block import MixedBlock as MixedBlock
from .onetrans import OneTrans as OneTrans
