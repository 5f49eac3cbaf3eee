from .first_run import Started as Started
from .first_run import Tables as Tables
from .first_run import check_name as check_name
from .first_run import look as look
from .first_run import start as start
from .questions import NONE as NONE
from .questions import Answers as Answers
from .questions import Question as Question
