"""Run a study: plan, freeze, drive the stages, watch them, write tables and report."""
