"""The paper's four pairs of states, whose representations are compared: control and mix, before and after SFT.

The pair base and base-SFT is the pair `sft` of a control arm, mid and mid-SFT that of a mix's arm. Base and mid are the pair
`mix` of a mix's arm, base-SFT and mid-SFT its pair `mix_sft`. Each pair names three columns, such as `sft_last_layer_cka`,
`sft_mean_diagonal_cka` and `sft_layer_distortion`. Source: arXiv 2510.14865 and nightingal3/midtraining.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from midstudy.recipe import Arm, Measure, RepresentationSimilarity, State
from midstudy.recipe.data import Dataset
from midstudy.recipe.errors import RecipeError
from midstudy.studies.bridging.scale import CONTROL, Scale

_SHARED = ("size", "task", "sft_steps", "trunk_seed", "sft_seed")


def with_pairs(arms: Sequence[Arm], *, scale: Scale, probe: Dataset | None = None) -> list[Arm]:
    """Return the arms with measures of their pairs, over sequences of the test split, as many as for a loss.

    Args:
        arms: fine-tuned arms, with the control of each mix.
        probe: the text on which states are compared; the task of the arm by default.

    Raises:
        RecipeError: a mix has no control of the same size, task and seeds.
    """
    controls = {_shared(arm): arm for arm in arms if arm.factors["mix"] == CONTROL}
    return [replace(arm, measures={**arm.measures, **_measures(arm, controls, scale, probe)}) for arm in arms]


def _measures(
    arm: Arm, controls: Mapping[tuple[object, ...], Arm], scale: Scale, probe: Dataset | None
) -> Mapping[str, Measure]:
    before, after = _states(arm)
    pairs = {"sft": (after, before)}
    if arm.factors["mix"] != CONTROL:
        if _shared(arm) not in controls:
            expected = f"a control with the same {', '.join(_SHARED)}"
            raise RecipeError("arms", expected=f"{expected} as the arm with {arm}", got="none")
        control_before, control_after = _states(controls[_shared(arm)])
        pairs |= {"mix": (before, control_before), "mix_sft": (after, control_after)}
    measures = {}
    for name, (state, other) in pairs.items():
        usual = scale.evaluation(probe or arm.measures["sft_loss"].evaluation.data)
        evaluation = RepresentationSimilarity(
            data=usual.data,
            split=usual.split,
            seq_len=usual.seq_len,
            max_sequences=usual.max_sequences,
            examples="sequences",
            other=other,
        )
        for metric in evaluation.METRICS:
            measure = Measure(state=state, evaluation=evaluation, metric=metric.name, better=metric.better)
            measures[f"{name}_{metric.name}"] = measure
    return measures


def _states(arm: Arm) -> tuple[State, State]:
    """Return the states before and after SFT."""
    run = arm.curriculum
    return run.state(run.stretches[-1].start_step), run.state()


def _shared(arm: Arm) -> tuple[object, ...]:
    return tuple(arm.factors[name] for name in _SHARED)
