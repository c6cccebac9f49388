"""The real driver, Slurm launcher, jobs and store on simulated hosts, clocks, disk and Slurm: a seed is a whole history."""
