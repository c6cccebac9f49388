"""Everything that imports Prefect: the view of a running study, flows for deployments, and local servers."""
