"""The study of "Midtraining Bridges Pretraining and Posttraining Distributions" (arXiv 2510.14865)."""
