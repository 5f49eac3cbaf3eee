from .day_examples import DayState as DayState
from .day_examples import write_day as write_day
from .day_log import DayLog as DayLog
