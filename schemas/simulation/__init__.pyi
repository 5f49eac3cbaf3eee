from .log import Events as Events
from .log import read_blocks as read_blocks
from .log import read_settings as read_settings
from .log import write_log as write_log
from .observer import Observer as Observer
from .world import SCENARIOS as SCENARIOS
from .world import Simulation as Simulation
from .world import make_world as make_world
