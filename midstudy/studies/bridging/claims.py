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
    claims = [_of_size(claim, size, num_sizes=len(sizes)) for size in sizes for claim in [*_of_paper(), *_of_controls()]]
    found = [claim for claim in claims if _can_be_judged(claim, by_name)]
    ordered = [size for size in SIZES if size in sizes]
    if len(ordered) > 1:
        found += [claim for claim in _smaller(ordered[0], ordered[-1]) if _has_both_sizes(claim, by_name)]
    return found


def _of_size(claim: Claim, size: str, *, num_sizes: int) -> Claim:
    text = f"{claim.text} (size {size})" if num_sizes > 1 else claim.text
    return replace(claim, text=text, arms={**claim.arms, "size": size})


def _can_be_judged(claim: Claim, comparisons: dict[str, Comparison]) -> bool:
    comparison = comparisons.get(claim.comparison)
    return comparison is not None and any(selects(claim.arms, arm.factors) for arm in comparison.arms)


def _has_both_sizes(claim: Claim, comparisons: dict[str, Comparison]) -> bool:
    pair = (claim.options["level"], claim.options["other"])
    return all(_can_be_judged(replace(claim, arms={**claim.arms, "size": size}), comparisons) for size in pair)


def _of_paper() -> list[Claim]:
    """Return the claims of the paper, of whatever size."""
    claims: list[Claim] = []
    for mix, task in MATCHED.items():
        claims += [_lowers(mix, task), _beats_rivals(mix, task)]
    claims += [_mismatched_change_little(task) for task in MATCHED.values()]
    claims += [_lowers_general(mix, task) for mix, task in MATCHED.items()]
    claims += [
        _mixed_beats_alone(mix, task, column) for column in ("sft_loss", "general_loss") for mix, task in MATCHED.items()
    ]
    claims += [_earlier(column) for column in ("sft_loss", "general_loss")]
    return [*claims, _timing(), _proximity(), _further(), *map(_closer, paper.SIMILARITIES)]


def _of_controls() -> list[Claim]:
    """Return the claims that the paper does not make, which say what its comparisons are due to."""
    claims = []
    for task in MATCHED.values():
        claims.append(_own(f"a placebo leaves {task} loss unchanged", "placebo", "sft_loss", PLACEBO, task, equal=True))
    for mix, task in MATCHED.items():
        claims.append(_own(f"{mix} lowers {task} loss against the placebo", "against_placebo", "sft_loss", mix, task))
    early, code = "an earlier start of code", MATCHED["code"]
    unchanged = f"{early} leaves {code} loss unchanged at equal dose"
    claims += [
        _own(unchanged, "equal_dose", "sft_loss", "code", code, equal=True),
        _own(f"{early} lowers general loss at equal dose", "equal_dose", "general_loss", "code", code),
        _own(f"{early} lowers {code} loss at equal specialist tokens", "equal_tokens", "sft_loss", "code", code),
    ]
    for mix, task in MATCHED.items():
        for kind, column in (("task", "sft_loss"), ("general", "general_loss")):
            text = f"{mix} mixed in beats {mix} alone at equal dose: {kind} loss"
            claims.append(_own(text, "alone_equal_dose", column, mix, task))
    for mix, task in MATCHED.items():
        within = f"{mix} within pretraining beats {mix} after it: {task} loss"
        cut = f"{mix} midtraining beats fine-tuning from its start: {task} loss"
        shrinks = f"the effect of {mix} on {task} shrinks as fine-tuning grows longer"
        claims += [
            _own(within, "after", "sft_loss", mix, task),
            _own(cut, "cut", "sft_loss", mix, task),
            replace(_own(shrinks, "sft_length", "sft_loss", mix, task), estimator="trend", holds="below"),
        ]
    return claims


def _own(text: str, comparison: str, column: str, mix: str, task: str, *, equal: bool = False) -> Claim:
    claim = replace(_paper(text, comparison, column, {"mix": mix, "task": task}, ""), source=OWN, family="controls")
    return replace(claim, holds="within", margin=EQUAL) if equal else claim


def _paper(text: str, comparison: str, column: str, arms: dict[str, str | tuple[str, ...]], cited: str) -> Claim:
    return Claim(
        text=text,
        source="arXiv 2510.14865",
        estimator="paired_effect",
        comparison=comparison,
        column=column,
        arms=arms,
        family="general loss" if column == "general_loss" else "task loss",
        cited=cited,
    )


def _lowers(mix: str, task: str) -> Claim:
    cited = []
    for source, short in (
        (paper.V1_TABLE_2, "v1 Table 2, 410m"),
        (paper.V2_TABLE_3, "v2 Table 3, 160m, second-hand"),
        (paper.V2_TABLE_2, "v2 Table 2, 1b, second-hand"),
    ):
        control, arm = (paper.paper_loss(source=source, task=task, mix=name) for name in (CONTROL, mix))
        gain = 100 * paper.relative_improvement(arm, control)
        cited.append(f"{control.sft_loss:.3f} → {arm.sft_loss:.3f}, {gain:.1f} % lower ({short})")
    text = f"{mix} midtraining lowers {task} loss"
    return _paper(text, "main", "sft_loss", {"mix": mix, "task": task}, "; ".join(cited))


def _beats_rivals(mix: str, task: str) -> Claim:
    table = {cell.mix: cell.sft_loss for cell in paper.LOSSES if (cell.source, cell.task) == (paper.V1_TABLE_2, task)}
    rivals = {name: loss for name, loss in table.items() if name != mix}
    nearest = min(rivals, key=rivals.__getitem__)
    text = f"{mix} is the best of all mixes and the control on {task}"
    cited = f"closest rival is {nearest}, {rivals[nearest] - table[mix]:+.3f} nats (v1 Table 2, 410m)"
    return replace(_paper(text, "main", "sft_loss", {"mix": mix, "task": task}, cited), estimator="best_of")


def _mismatched_change_little(task: str) -> Claim:
    table = [cell for cell in paper.LOSSES if (cell.source, cell.task) == (paper.V1_TABLE_2, task)]
    control = next(cell for cell in table if cell.mix == CONTROL)
    gains = {
        cell.mix: paper.relative_improvement(cell, control)
        for cell in table
        if cell.mix != CONTROL and MATCHED.get(cell.mix) != task
    }
    low, high = 100 * min(gains.values()), 100 * max(gains.values())
    text = f"mismatched mixes change {task} loss by less than {100 * NULL_BAND:g} %"
    cited = f"{low:+.1f} % to {high:+.1f} % (v1 Table 2, 410m)"
    claim = _paper(text, "main", "sft_loss", {"mix": tuple(gains), "task": task}, cited)
    return replace(claim, estimator="all_within", holds="within", margin=NULL_BAND)


def _lowers_general(mix: str, task: str) -> Claim:
    cited = []
    for source, short in (
        (paper.V2_TABLE_3, "v2 Table 3, 160m, second-hand"),
        (paper.V2_TABLE_2, "v2 Table 2, 1b, second-hand"),
        (paper.V1_TABLE_2, "v1 Table 2, 410m"),
    ):
        control, arm = (paper.paper_loss(source=source, task=task, mix=name) for name in (CONTROL, mix))
        opposite = ", opposite direction" if arm.general_loss > control.general_loss else ""
        cited.append(f"{control.general_loss:.3f} → {arm.general_loss:.3f} ({short}{opposite})")
    text = f"{mix} midtraining lowers general loss after {task} SFT"
    return _paper(text, "main", "general_loss", {"mix": mix, "task": task}, "; ".join(cited))


def _mixed_beats_alone(mix: str, task: str, column: str) -> Claim:
    mid, alone = (
        paper.paper_loss(source=paper.V2_TABLE_3, task=task, mix=mix, weight=weight) for weight in (paper.WEIGHT[mix], 1.0)
    )
    kind = "task" if column == "sft_loss" else "general"
    cited = f"{getattr(alone, column):.3f} → {getattr(mid, column):.3f} (v2 Table 3, 160m, second-hand)"
    if paper.note_agrees(mix, task, column):
        cited += "; the same direction at 70m and 160m (a note's table, whose levels fit no table of the paper)"
    text = f"{mix} mixed into general text beats {mix} alone: {kind} loss after {task} SFT"
    return _paper(text, "continued", column, {"mix": mix, "task": task}, cited)


def _earlier(column: str) -> Claim:
    kind = "pycode" if column == "sft_loss" else "general"
    text = f"an earlier start of code data lowers {kind} loss more (it also means more code tokens at higher rates)"
    cited = "claimed for 70m and 160m, starts at 10 % to 82 % of training (v1)"
    return _paper(text, "earliest_latest", column, {"mix": "code", "task": "pycode"}, cited)


def _timing() -> Claim:
    text = "the start of code matters more for pycode loss than its share"
    cited = "claimed for 70m and 160m (v1); start and share interact (v2, second-hand)"
    claim = _paper(text, "crossed", "sft_loss", {"mix": "code", "task": MATCHED["code"]}, cited)
    return replace(claim, estimator="midstudy.studies.bridging.timing:timing_over_share")


def _proximity() -> Claim:
    cited = ", ".join(f"r = {known.r:.3f} ({known.size}, {known.source})" for known in paper.CORRELATIONS)
    claim = _paper("proximity advantage correlates with relative improvement", "main", "sft_loss", {}, cited)
    return replace(claim, estimator="correlation", options={"measure": "combined"}, family="proximity")


def _further() -> Claim:
    cited = "claimed of code and mathematics, which are furthest from C4 (v1)"
    claim = _paper("mixes gain more on tasks that are further from general text", "main", "sft_loss", {}, cited)
    return replace(claim, estimator="midstudy.studies.bridging.distance:distance_and_gain", family="proximity")


def _closer(known: paper.PaperSimilarity) -> Claim:
    text = f"the {known.mix} mix is closer to {known.task} than the control is"
    cited = f"similarity {known.control_similarity:.2f} → {known.mix_similarity:.2f} ({known.source})"
    claim = _paper(text, "main", "sft_loss", {"mix": known.mix, "task": known.task}, cited)
    return replace(claim, estimator="midstudy.studies.bridging.closeness:closer", family="proximity")


def _smaller(smaller: str, larger: str) -> list[Claim]:
    """Return the claims on the smallest and the largest size of a study."""
    rs = ", ".join(f"{known.size} {known.r:.3f}" for known in paper.CORRELATIONS if known.source == paper.V2_TEXT)
    cited = f"claimed of 70m and larger models (v1); no trend in r (v2, second-hand: {rs})"
    claims = []
    for mix, task in MATCHED.items():
        text = f"{mix} lowers {task} loss more at size {smaller} than at size {larger}"
        claim = _paper(text, "main", "sft_loss", {"mix": mix, "task": task}, cited)
        options = {"factor": "size", "level": smaller, "other": larger}
        claims.append(replace(claim, estimator="interaction", options=options, family="size"))
    return claims
