"""The flows that prefect.yaml deploys: the sweeps of `experiments/`, a report, and a sync of MLflow.

A flow for your own experiment is one more line and an entry in prefect.yaml:

    question = flow_of(Path("question.py"), name="question")
"""

from __future__ import annotations

from pathlib import Path

from midstudy.flows.deployed import flow_of, report, track_sync

EXPERIMENTS = Path(__file__).parent.parent / "experiments"

bridging = flow_of(EXPERIMENTS / "bridging_micro.py", name="bridging")
timing_weight = flow_of(EXPERIMENTS / "timing_weight.py", name="timing-weight")
nanochat = flow_of(EXPERIMENTS / "nanochat.py", name="nanochat")
similarity = flow_of(EXPERIMENTS / "similarity.py", name="similarity")

__all__ = ["bridging", "nanochat", "report", "similarity", "timing_weight", "track_sync"]
