from .additive import AdditiveLogOdds as AdditiveLogOdds
from .boosted_trees import BoostedTrees as BoostedTrees
from .example_arrays import read_columns as read_columns
from .example_arrays import read_examples as read_examples
from .task_kinds import TASK_BASELINES as TASK_BASELINES
