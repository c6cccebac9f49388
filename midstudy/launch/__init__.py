"""Run stages: jobs that execute them, launchers that start jobs, and the driver that schedules them."""
