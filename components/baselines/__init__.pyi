from .additive import AdditiveLogOdds as AdditiveLogOdds
from .additive import read_columns as read_columns
from .boosted_trees import BoostedTrees as BoostedTrees
from .example_arrays import read_examples as read_examples
