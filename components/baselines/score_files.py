"""Files of the baselines' scores, below the output of the step that writes them."""

ADDITIVE, BOOSTED_TREES = "additive.parquet", "boosted_trees.parquet"
