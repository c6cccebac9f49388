"""Execution of one stage in a job: one file per kind of stage, dispatched by `stage.py`."""
