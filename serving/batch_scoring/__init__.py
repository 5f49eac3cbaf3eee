"""Scoring files in bulk on Beam: what a served model answers, row by row, without a server.

job.py        one run: plan, restart, pipeline, summary
plan.py       input files -> work items, each of which becomes one output file
work.py       one work item: read, check, score, write, count
model.py      the SavedModel, called on whole batches
tables.py     Arrow columns of the request layout -> checked inputs of `score_rows`
text.py       CSV -> such columns
counters.py   what a run counts
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
