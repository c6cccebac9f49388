"""The small study with other arms: fine-tuning from other weights, and the state before an arm's fine-tuning."""

from __future__ import annotations

import dataclasses

from midstudy.plan.planner import ArmStages
from midstudy.recipe import Arm, Curriculum, Start, Study, factors
from midstudy.recipe.factors import Value, joined


def with_arms(study: Study, *arms: Arm) -> Study:
    """Return the study with these arms and without comparisons, since their arms may be missing."""
    return dataclasses.replace(study, arms=arms, comparisons=())


def fine_tuned_from(start: Start, arm: Arm, **labels: Value) -> Arm:
    """Return only the fine-tuning of `arm`, from `start`, with its measures and factors; `labels` replace factors."""
    phase = dataclasses.replace(arm.curriculum.stretches[-1].phase, factors=factors(**{**arm.factors, **labels}))
    return measured_like(arm, Curriculum.of(start, phase))


def measured_like(arm: Arm, curriculum: Curriculum) -> Arm:
    """Return an arm of `curriculum` with the evaluations of `arm`, before the last phase and at the end."""
    before = curriculum.state(curriculum.stretches[-1].start_step)
    measures = {
        column: dataclasses.replace(measure, state=before if column.endswith("_before") else curriculum.state())
        for column, measure in arm.measures.items()
    }
    return Arm(curriculum=curriculum, measures=measures)


def state_before_sft(entry: ArmStages) -> str:
    """Return the id of the state from which an arm of the small study is fine-tuned."""
    state = entry.arm.measures["sft_loss_before"].state
    assert state is not None
    return state.id


def relabelled(arm: Arm, **labels: Value) -> Arm:
    """Return the same training with other factors."""
    last = arm.curriculum.stretches[-1]
    phase = dataclasses.replace(last.phase, factors=joined(last.phase.factors, factors(**labels)))
    return measured_like(arm, arm.curriculum.until(last.start_step).then(phase))
