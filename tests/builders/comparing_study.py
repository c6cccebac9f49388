"""The small study, with a comparison of every arm's states before and after fine-tuning."""

from __future__ import annotations

from pathlib import Path

from builders.small_study import small_study
from midstudy.recipe import Arm, Measure, RepresentationSimilarity, Study

COLUMNS = {metric.name: metric.better for metric in RepresentationSimilarity.METRICS}


def comparing_study(folder: Path, *, max_sequences: int = 16) -> Study:
    """Return the small study, with the states before and after each arm's fine-tuning compared on its task."""
    study, arms = small_study(folder), []
    for arm in study.arms:
        evaluation = RepresentationSimilarity(
            data=arm.measures["sft_loss"].evaluation.data,
            split="test",
            seq_len=32,
            max_sequences=max_sequences,
            examples="tokens",
            other=arm.measures["sft_loss_before"].all_states[0],
        )
        measures = {
            name: Measure(state=arm.final_state, evaluation=evaluation, metric=name, better=better)
            for name, better in COLUMNS.items()
        }
        arms.append(Arm(curriculum=arm.curriculum, measures={**arm.measures, **measures}))
    return Study(name="comparing", question="What does fine-tuning change?", arms=arms)
