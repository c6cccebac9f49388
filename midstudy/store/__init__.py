"""The store on disk: its layout, requested recipes, attempts, published records and study manifests.

The store alone defines what is finished; Prefect, MLflow and Slurm are views of it.
"""
