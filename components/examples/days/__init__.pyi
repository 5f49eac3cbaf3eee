from .day_examples import DayState as DayState
from .day_examples import write_day as write_day
from .day_log import DayLog as DayLog
from .day_log import read_log as read_log
from .day_log import read_others as read_others
