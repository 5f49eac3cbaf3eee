"""Batch scoring on Beam: the scores that a served model would give to each row of some files, without a server.

job.py           one run: plan, restart, pipeline, summary
scoring_plan.py  input files -> work items, one output file per item
output.py        the output folder: ownership, progress, final merge
work.py          one work item: read, check, score, write, count
scorer.py        the SavedModel, called on whole batches
row_files.py     Arrow columns of the request layout -> checked inputs of `score_rows`
counters.py      counters of a run
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
