from .auto_token import AutoToken as AutoToken
from .learned_mixing import LearnedMixing as LearnedMixing
from .learned_mixing import Rotation as Rotation
from .lora import ScenarioAdapter as ScenarioAdapter
from .mtmixatt import MTmixAtt as MTmixAtt
from .multi_mix import MultiMixBlock as MultiMixBlock
from .scenario_heads import ScenarioHeads as ScenarioHeads
