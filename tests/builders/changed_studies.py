"""The small study with other arms: fine-tuning from other weights, and the state before an arm's fine-tuning."""

from __future__ import annotations

import dataclasses

from midstudy.plan.planner import ArmStages
from midstudy.recipe import Arm, Curriculum, Start, Study, factors
from midstudy.recipe.factors import Value, joined


def with_arms(study: Study, *arms: Arm) -> Study:
    """The study with these arms, and without comparisons, whose arms may be gone."""
    return dataclasses.replace(study, arms=arms, comparisons=())


def fine_tuned_from(start: Start, arm: Arm, **labels: Value) -> Arm:
    """The fine-tuning of `arm` alone, from `start`, measured like `arm`; its factors are those of `arm` but for `labels`."""
    phase = dataclasses.replace(arm.curriculum.stretches[-1].phase, factors=factors(**{**arm.factors, **labels}))
    return measured_like(arm, Curriculum.of(start, phase))


def measured_like(arm: Arm, curriculum: Curriculum) -> Arm:
    """An arm of `curriculum` with the evaluations of `arm`, before the last phase and at the end."""
    before = curriculum.state(curriculum.stretches[-1].start_step)
    measures = {
        column: dataclasses.replace(measure, state=before if column.endswith("_before") else curriculum.state())
        for column, measure in arm.measures.items()
    }
    return Arm(curriculum=curriculum, measures=measures)


def state_before_sft(entry: ArmStages) -> str:
    """The id of the state that an arm of the small study is fine-tuned from."""
    state = entry.arm.measures["sft_loss_before"].state
    assert state is not None
    return state.id


def relabelled(arm: Arm, **labels: Value) -> Arm:
    """The same training under other factors."""
    last = arm.curriculum.stretches[-1]
    phase = dataclasses.replace(last.phase, factors=joined(last.phase.factors, factors(**labels)))
    return measured_like(arm, arm.curriculum.until(last.start_step).then(phase))
