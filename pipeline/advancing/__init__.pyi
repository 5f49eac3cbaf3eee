from .advance import Advance as Advance
from .day_record import DayRecord as DayRecord
from .day_record import days_done as days_done
