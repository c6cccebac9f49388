"""The study's main question answered in a sentence per task, with its uncertainty and what is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from midstudy.analysis.arms import CONTROL, in_group, is_member, require_arms
from midstudy.analysis.effects import best_of, paired_effects
from midstudy.analysis.phrases import reduction_with_interval


def answer_sentence(arms: pd.DataFrame, *, tasks: Sequence[str]) -> str:
    """Which mix of the main group helps each task most, by how much, and how sure that is.

    A sentence per (size, task), then one on unfinished runs where there are any. The best mix is picked after looking,
    so the p value given is Holm-corrected over the main group's effects, and rivals that paired differences cannot tell
    from it are named. One trunk seed gives no interval, and the sentence says so.

    Raises ValueError where a task is not in the table.
    """
    require_arms(arms)
    unknown = [task for task in tasks if task not in set(arms["task"])]
    if unknown:
        raise ValueError(f"tasks: '{unknown[0]}' is not a task of this study; its tasks are {_listed(arms['task'])}")
    main = in_group(arms, "main")
    effects = paired_effects(main).table
    sizes = list(arms["size"].unique())
    sentences = []
    for size in sizes:
        where = f"at size {size}, " if len(sizes) > 1 else ""
        for task in tasks:
            cell = effects[(effects["size"] == size) & (effects["task"] == task) & is_member(effects, "main")]
            clause = _answer_for_task(main, cell, size=size, task=task)
            sentences.append(_capitalised(f"{where}{clause}."))
    unfinished = int(main["sft_loss"].isna().sum())
    if unfinished:
        sentences.append(f"{unfinished} of the main question's {len(main)} runs are not finished, so this may change.")
    return " ".join(sentences)


def _answer_for_task(main: pd.DataFrame, effects: pd.DataFrame, *, size: str, task: str) -> str:
    if effects.empty:
        return f"nothing can be said about {task} yet: no midtraining arm is finished together with its control"
    best = effects.loc[effects["relative_improvement"].idxmax()]
    mix, effect = str(best["mix"]), reduction_with_interval(best)
    if best["relative_improvement"] <= 0:
        return f"no mix lowers the {task} loss below the general-only control; the nearest is {mix} at {effect}"
    single = len(effects) == 1
    if int(best["n_trunk_seeds"]) < 2:
        lead = "lowers the loss" if single else "lowers the loss most"
        return (
            f"on {task}, {mix} midtraining {lead}, by {effect} against the general-only control, "
            "but one trunk seed says nothing about chance"
        )
    if math.isnan(best["ci_low"]):
        return f"on {task}, {mix} midtraining lowers the loss by {effect}: {best['note']}"
    if best["ci_low"] <= 0:
        return (
            f"no mix can be told from the general-only control on {task}: the largest reduction of the loss, "
            f"by {mix} midtraining, is {effect} and its interval includes zero"
        )
    lead = "lowers the loss" if single else "lowers the loss most"
    return (
        f"on {task}, {mix} midtraining {lead}, by {effect} against the general-only control, "
        f"Holm-corrected p = {best['p_holm']:.2g}"
        f"{_against_rivals(main, size=size, task=task, mix=mix)}"
    )


def _against_rivals(main: pd.DataFrame, *, size: str, task: str, mix: str) -> str:
    rivals = best_of(main, size=size, task=task, mix=mix)
    rivals = rivals[rivals["other"] != CONTROL]
    if rivals.empty:
        return "; no other mix was tried"
    beaten = rivals["ci_low"] > 0
    if beaten.all():
        names = {1: "the only other mix", 2: "both other mixes"}.get(len(rivals), f"all {len(rivals)} other mixes")
        return f", and it ends below {names} in paired differences whose intervals exclude zero"
    return f"; not told from it by a paired interval: {_listed(rivals.loc[~beaten, 'other'])}"


def _listed(names: pd.Series) -> str:
    return ", ".join(dict.fromkeys(str(name) for name in names))


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]
