"""What a job does for one stage: one file a kind of stage, `stage.py` chooses among them."""
