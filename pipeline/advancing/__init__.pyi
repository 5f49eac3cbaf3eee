from .advance import Advance as Advance
from .day_record import DayRecord as DayRecord
from .day_record import days_done as days_done
from .deploying import Outcome as Outcome
from .deploying import Trial as Trial
from .deploying import deploy_newest as deploy_newest
from .deploying import deploy_settings as deploy_settings
