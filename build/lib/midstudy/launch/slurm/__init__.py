"""Slurm: jobs through submitit, its queue and accounting, what a placement file asks for."""
