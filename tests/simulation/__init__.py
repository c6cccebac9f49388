"""Run the real driver, Slurm launcher, jobs and store on simulated hosts, clocks, disk and Slurm, determined by a seed."""
