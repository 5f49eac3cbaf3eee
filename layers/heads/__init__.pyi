from .calibrated_logits import CalibratedLogits as CalibratedLogits
from .task_heads import TaskHead as TaskHead
from .task_heads import TaskHeads as TaskHeads
