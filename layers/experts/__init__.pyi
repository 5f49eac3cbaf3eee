from .dense import SharedDenseMoE as SharedDenseMoE
from .dense import count_dense_moe as count_dense_moe
from .scenario import ScenarioSparseMoE as ScenarioSparseMoE
from .scenario import count_scenario_moe as count_scenario_moe
from .sparse import Dispatch as Dispatch
from .sparse import Experts as Experts
from .sparse import choose_dispatch as choose_dispatch
from .sparse import dispatch_here as dispatch_here
