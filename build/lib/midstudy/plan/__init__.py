"""From a study to the stages that must run: sharing, what is already there, and what it costs."""
