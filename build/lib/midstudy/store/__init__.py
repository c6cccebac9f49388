"""Where everything lives on disk: paths, recipes asked for, attempts, published records, study manifests.

The store alone says what is done; Prefect, MLflow and Slurm are views of it.
"""
