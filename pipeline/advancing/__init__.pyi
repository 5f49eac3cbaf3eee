from .advance import Advance as Advance
from .day_record import DAYS as DAYS
from .day_record import DayRecord as DayRecord
from .day_record import days_done as days_done
from .day_scores import DayScores as DayScores
from .day_scores import TaskScores as TaskScores
