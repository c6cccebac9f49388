"""karpathy/nanochat's base → mid → SFT: its decisions as functions, its claims, and the report."""
