"""The claims of the bridging study as data: the paper's, and those that its controls can test.

One set per model size; each is decided over trunk seeds. Margins and families were fixed before the first study that judges
them, as the history of this file shows.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from midstudy.recipe import Claim, Comparison
from midstudy.recipe.factors import selects
from midstudy.recipe.model import SIZES
from midstudy.studies.bridging import paper
from midstudy.studies.bridging.grid import MATCHED
from midstudy.studies.bridging.scale import CONTROL
from midstudy.studies.bridging.text import PLACEBO

EQUAL = 0.01
"""Relative change below which two arms count as equal: half of the paper's band, a tenth of its larger effects."""

OWN = "midstudy"
"""The source of the claims that the paper does not make."""

NULL_BAND = 0.02
"""Relative change that counts as no change: the paper's largest mismatched change of SFT loss is 1.95 % (v1 Table 2, LIMA
with Starcoder)."""


def claims_for(comparisons: Iterable[Comparison]) -> list[Claim]:
    """Return the claims that can be judged from these comparisons, in the paper's order."""
    by_name = {comparison.name: comparison for comparison in comparisons}
    sizes = dict.fromkeys(str(arm.factors["size"]) for comparison in by_name.values() for arm in comparison.arms)
    claims: list[Claim] = []
    for size in sizes:
        where = f" (size {size})" if len(sizes) > 1 else ""
        claims += [claim for claim in _claims(size, where) if _can_be_judged(claim, by_name)]
    ordered = [size for size in SIZES if size in sizes]
    if len(ordered) > 1:
        claims += [claim for claim in _smaller(ordered[0], ordered[-1]) if _has_both_sizes(claim, by_name)]
    return claims


def _can_be_judged(claim: Claim, comparisons: dict[str, Comparison]) -> bool:
    comparison = comparisons.get(claim.comparison)
    return comparison is not None and any(selects(claim.arms, arm.factors) for arm in comparison.arms)


def _has_both_sizes(claim: Claim, comparisons: dict[str, Comparison]) -> bool:
    pair = (claim.options["level"], claim.options["other"])
    return all(_can_be_judged(replace(claim, arms={**claim.arms, "size": size}), comparisons) for size in pair)


def _claims(size: str, where: str) -> list[Claim]:
    claims: list[Claim] = []
    for mix, task in MATCHED.items():
        claims += [_lowers(mix, task, size, where), _beats_rivals(mix, task, size, where)]
    claims += [_mismatched_change_little(task, size, where) for task in MATCHED.values()]
    claims += [_lowers_general(mix, task, size, where) for mix, task in MATCHED.items()]
    claims += [
        _mixed_beats_alone(mix, task, column, size, where)
        for column in ("sft_loss", "general_loss")
        for mix, task in MATCHED.items()
    ]
    claims += [_earlier(column, size, where) for column in ("sft_loss", "general_loss")]
    claims.append(_timing(size, where))
    claims.append(_proximity(size, where))
    claims.append(_further(size, where))
    claims += [_closer(cell, size, where) for cell in paper.SIMILARITIES]
    return [*claims, *_of_controls(size, where)]


def _of_controls(size: str, where: str) -> list[Claim]:
    """Return the claims that the paper does not make, which say what its comparisons are due to."""
    claims = []
    for task in MATCHED.values():
        claims.append(
            _own(f"a placebo leaves {task} loss unchanged", "placebo", "sft_loss", PLACEBO, task, size, where, equal=True)
        )
    for mix, task in MATCHED.items():
        claims.append(
            _own(f"{mix} lowers {task} loss against the placebo", "against_placebo", "sft_loss", mix, task, size, where)
        )
    early, code = "an earlier start of code", MATCHED["code"]
    claims += [
        _own(
            f"{early} leaves {code} loss unchanged at equal dose",
            "equal_dose",
            "sft_loss",
            "code",
            code,
            size,
            where,
            equal=True,
        ),
        _own(f"{early} lowers general loss at equal dose", "equal_dose", "general_loss", "code", code, size, where),
        _own(
            f"{early} lowers {code} loss at equal specialist tokens", "equal_tokens", "sft_loss", "code", code, size, where
        ),
    ]
    for mix, task in MATCHED.items():
        claims += [
            _own(
                f"{mix} mixed in beats {mix} alone at equal dose: {kind} loss",
                "alone_equal_dose",
                column,
                mix,
                task,
                size,
                where,
            )
            for kind, column in (("task", "sft_loss"), ("general", "general_loss"))
        ]
    for mix, task in MATCHED.items():
        claims += [
            _own(f"{mix} within pretraining beats {mix} after it: {task} loss", "after", "sft_loss", mix, task, size, where),
            _own(
                f"{mix} midtraining beats fine-tuning from its start: {task} loss", "cut", "sft_loss", mix, task, size, where
            ),
            _shrinks(mix, task, size, where),
        ]
    return claims


def _own(
    text: str, comparison: str, column: str, mix: str, task: str, size: str, where: str, *, equal: bool = False
) -> Claim:
    return Claim(
        text=text + where,
        source=OWN,
        estimator="paired_effect",
        comparison=comparison,
        column=column,
        arms={"mix": mix, "task": task, "size": size},
        holds="within" if equal else "above",
        margin=EQUAL if equal else 0.0,
        family="controls",
    )


def _shrinks(mix: str, task: str, size: str, where: str) -> Claim:
    return Claim(
        text=f"the effect of {mix} on {task} shrinks as fine-tuning grows longer{where}",
        source=OWN,
        estimator="trend",
        comparison="sft_length",
        column="sft_loss",
        arms={"mix": mix, "task": task, "size": size},
        holds="below",
        family="controls",
    )


def _lowers(mix: str, task: str, size: str, where: str) -> Claim:
    cited = []
    for source, short in (
        (paper.V1_TABLE_2, "v1 Table 2, 410m"),
        (paper.V2_TABLE_3, "v2 Table 3, 160m, second-hand"),
        (paper.V2_TABLE_2, "v2 Table 2, 1b, second-hand"),
    ):
        control, arm = (paper.paper_loss(source=source, task=task, mix=name) for name in (CONTROL, mix))
        gain = 100 * paper.relative_improvement(arm, control)
        cited.append(f"{control.sft_loss:.3f} → {arm.sft_loss:.3f}, {gain:.1f} % lower ({short})")
    return _paired(f"{mix} midtraining lowers {task} loss{where}", "main", "sft_loss", mix, task, size, "; ".join(cited))


def _beats_rivals(mix: str, task: str, size: str, where: str) -> Claim:
    table = {cell.mix: cell.sft_loss for cell in paper.LOSSES if (cell.source, cell.task) == (paper.V1_TABLE_2, task)}
    rivals = {name: loss for name, loss in table.items() if name != mix}
    nearest = min(rivals, key=rivals.__getitem__)
    return Claim(
        text=f"{mix} is the best of all mixes and the control on {task}{where}",
        source="arXiv 2510.14865",
        estimator="best_of",
        comparison="main",
        column="sft_loss",
        arms={"mix": mix, "task": task, "size": size},
        family="task loss",
        cited=f"closest rival is {nearest}, {rivals[nearest] - table[mix]:+.3f} nats (v1 Table 2, 410m)",
    )


def _mismatched_change_little(task: str, size: str, where: str) -> Claim:
    table = [cell for cell in paper.LOSSES if (cell.source, cell.task) == (paper.V1_TABLE_2, task)]
    control = next(cell for cell in table if cell.mix == CONTROL)
    gains = {
        cell.mix: paper.relative_improvement(cell, control)
        for cell in table
        if cell.mix != CONTROL and MATCHED.get(cell.mix) != task
    }
    low, high = 100 * min(gains.values()), 100 * max(gains.values())
    return Claim(
        text=f"mismatched mixes change {task} loss by less than {100 * NULL_BAND:g} %{where}",
        source="arXiv 2510.14865",
        estimator="all_within",
        comparison="main",
        column="sft_loss",
        arms={"mix": tuple(gains), "task": task, "size": size},
        holds="within",
        margin=NULL_BAND,
        family="task loss",
        cited=f"{low:+.1f} % to {high:+.1f} % (v1 Table 2, 410m)",
    )


def _lowers_general(mix: str, task: str, size: str, where: str) -> Claim:
    cited = []
    for source, short in (
        (paper.V2_TABLE_3, "v2 Table 3, 160m, second-hand"),
        (paper.V2_TABLE_2, "v2 Table 2, 1b, second-hand"),
        (paper.V1_TABLE_2, "v1 Table 2, 410m"),
    ):
        control, arm = (paper.paper_loss(source=source, task=task, mix=name) for name in (CONTROL, mix))
        opposite = ", opposite direction" if arm.general_loss > control.general_loss else ""
        cited.append(f"{control.general_loss:.3f} → {arm.general_loss:.3f} ({short}{opposite})")
    text = f"{mix} midtraining lowers general loss after {task} SFT{where}"
    return _paired(text, "main", "general_loss", mix, task, size, "; ".join(cited))


def _mixed_beats_alone(mix: str, task: str, column: str, size: str, where: str) -> Claim:
    mid, alone = (
        paper.paper_loss(source=paper.V2_TABLE_3, task=task, mix=mix, weight=weight) for weight in (paper.WEIGHT[mix], 1.0)
    )
    kind = "task" if column == "sft_loss" else "general"
    cited = f"{getattr(alone, column):.3f} → {getattr(mid, column):.3f} (v2 Table 3, 160m, second-hand)"
    if paper.note_agrees(mix, task, column):
        cited += "; the same direction at 70m and 160m (a note's table, whose levels fit no table of the paper)"
    text = f"{mix} mixed into general text beats {mix} alone: {kind} loss after {task} SFT{where}"
    return _paired(text, "continued", column, mix, task, size, cited)


def _earlier(column: str, size: str, where: str) -> Claim:
    kind = "pycode" if column == "sft_loss" else "general"
    text = f"an earlier start of code data lowers {kind} loss more (it also means more code tokens at higher rates){where}"
    cited = "claimed for 70m and 160m, starts at 10 % to 82 % of training (v1)"
    return _paired(text, "earliest_latest", column, "code", "pycode", size, cited)


def _proximity(size: str, where: str) -> Claim:
    return Claim(
        text=f"proximity advantage correlates with relative improvement{where}",
        source="arXiv 2510.14865",
        estimator="correlation",
        comparison="main",
        column="sft_loss",
        arms={"size": size},
        options={"measure": "combined"},
        family="proximity",
        cited=", ".join(f"r = {known.r:.3f} ({known.size}, {known.source})" for known in paper.CORRELATIONS),
    )


def _timing(size: str, where: str) -> Claim:
    return Claim(
        text=f"the start of code matters more for pycode loss than its share{where}",
        source="arXiv 2510.14865",
        estimator="midstudy.studies.bridging.timing:timing_over_share",
        comparison="crossed",
        column="sft_loss",
        arms={"mix": "code", "task": MATCHED["code"], "size": size},
        family="task loss",
        cited="claimed for 70m and 160m (v1); start and share interact (v2, second-hand)",
    )


def _further(size: str, where: str) -> Claim:
    return Claim(
        text=f"mixes gain more on tasks that are further from general text{where}",
        source="arXiv 2510.14865",
        estimator="midstudy.studies.bridging.distance:distance_and_gain",
        comparison="main",
        column="sft_loss",
        arms={"size": size},
        family="proximity",
        cited="claimed of code and mathematics, which are furthest from C4 (v1)",
    )


def _smaller(smaller: str, larger: str) -> list[Claim]:
    """Return the claims on the smallest and the largest size of a study."""
    rs = ", ".join(f"{known.size} {known.r:.3f}" for known in paper.CORRELATIONS if known.source == paper.V2_TEXT)
    return [
        Claim(
            text=f"{mix} lowers {task} loss more at size {smaller} than at size {larger}",
            source="arXiv 2510.14865",
            estimator="interaction",
            comparison="main",
            column="sft_loss",
            arms={"mix": mix, "task": task},
            options={"factor": "size", "level": smaller, "other": larger},
            family="size",
            cited=f"claimed of 70m and larger models (v1); no trend in r (v2, second-hand: {rs})",
        )
        for mix, task in MATCHED.items()
    ]


def _closer(known: paper.PaperSimilarity, size: str, where: str) -> Claim:
    return Claim(
        text=f"the {known.mix} mix is closer to {known.task} than the control is{where}",
        source="arXiv 2510.14865",
        estimator="midstudy.studies.bridging.closeness:closer",
        comparison="main",
        column="sft_loss",
        arms={"mix": known.mix, "task": known.task, "size": size},
        family="proximity",
        cited=f"similarity {known.control_similarity:.2f} → {known.mix_similarity:.2f} ({known.source})",
    )


def _paired(text: str, comparison: str, column: str, mix: str, task: str, size: str, cited: str) -> Claim:
    return Claim(
        text=text,
        source="arXiv 2510.14865",
        estimator="paired_effect",
        comparison=comparison,
        column=column,
        arms={"mix": mix, "task": task, "size": size},
        family="general loss" if column == "general_loss" else "task loss",
        cited=cited,
    )
