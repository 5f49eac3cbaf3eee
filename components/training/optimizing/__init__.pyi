from .optimizers import build_optimizer as build_optimizer
from .optimizers import build_table_optimizer as build_table_optimizer
from .optimizers import named_variables as named_variables
from .row_optimizer import Gradient as Gradient
from .row_optimizer import RowOptimizer as RowOptimizer
from .row_optimizer import build_row_optimizer as build_row_optimizer
