"""Running stages: jobs that carry them, launchers that start jobs, and the driver that decides what runs when."""
