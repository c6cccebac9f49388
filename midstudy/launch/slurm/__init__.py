"""Slurm backend: submit jobs through submitit, query queue and accounting, read placement files."""
