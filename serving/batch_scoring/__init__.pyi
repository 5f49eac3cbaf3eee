from .job import Progress as Progress
from .job import score as score
from .scorer import find_model as find_model
from .scorer import load as load
from .scoring_plan import FORMATS as FORMATS
