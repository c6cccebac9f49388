"""Prefect's view of a study, and the run that the view is of. The only code that imports Prefect."""
