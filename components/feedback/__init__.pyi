from .feedback import COUNTS as COUNTS
from .feedback import Feedback as Feedback
from .feedback import join_feedback as join_feedback
from .skew import ColumnSkew as ColumnSkew
from .skew import Skew as Skew
from .skew import compare_rows as compare_rows
