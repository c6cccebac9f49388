"""Benchmark: is `midstudy recommend` right about studies that were trained? Prints a table, counts, intervals and the bars.

    python benchmarks/recommend.py --store STORE                                         every study against the others
    python benchmarks/recommend.py --store STORE --judge A B C [--calibrate-on OTHER]    A, B, C against the other studies

Predictors: `experts`, what `recommend` ranks by; the paper's `proximity advantage`, over hashed words; `more tokens`, the
bytes of the candidate. The interval of the improvement that `recommend` expects is counted as covering or not. Nothing is
fitted on a judged study: without --judge the line is fitted on all other studies of the store, with it on those that are
not judged, and on all of the store that --calibrate-on names.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

from midstudy.analysis.calibration import COVERAGE, Calibration, calibrate
from midstudy.analysis.judgement import (
    TaskScore,
    Trained,
    Verdict,
    decidable,
    mean_regret,
    mean_rho,
    over_studies,
    score_task,
    share_right,
    verdict,
)
from midstudy.run.finished_pairs import FinishedPair, FinishedPairs, finished_pairs
from midstudy.store.store import Store

PRIMARY = "experts"
RIVALS = ("proximity advantage", "more tokens")
ALL = "all studies"


def trained(pair: FinishedPair) -> Trained:
    """Return a pair with the scores of every predictor."""
    scores = {PRIMARY: pair.score, RIVALS[0]: pair.advantage, RIVALS[1]: float(pair.candidate_bytes)}
    return Trained(candidate=pair.candidate, improvements=pair.improvements, scores=scores)


def scores_of(pairs: Sequence[FinishedPair], predictor: str) -> list[TaskScore]:
    """Return the predictor's score on each task of each study that has two candidates."""
    groups: dict[tuple[str, str], list[Trained]] = {}
    for pair in pairs:
        groups.setdefault((pair.study, pair.task), []).append(trained(pair))
    return [
        score_task(candidates, predictor, study=study, task=task)
        for (study, task), candidates in groups.items()
        if len(candidates) > 1
    ]


def calibration_for(study: str, judged: Sequence[str], others: FinishedPairs, own: FinishedPairs) -> Calibration | None:
    """Return the calibration on studies that are not judged or, where all are, on all but this one."""
    known = own.by_study()
    left = {name: pairs for name, pairs in known.items() if name not in judged} if set(known) - set(judged) else {}
    left |= others.by_study()
    return calibrate(left or {name: pairs for name, pairs in known.items() if name != study})


def with_interval(scores: Sequence[TaskScore], statistic: Callable[[Sequence[TaskScore]], float], factor: float) -> str:
    """Return a statistic over studies with its interval, as text."""
    total = over_studies(scores, statistic)
    if not math.isfinite(total.value):
        return "–"
    interval = f" [{factor * total.low:.2f}, {factor * total.high:.2f}]" if math.isfinite(total.low) else ""
    return f"{factor * total.value:.2f}{interval}"


def row(name: str, predictor: str, scores: Sequence[TaskScore], covered: str) -> str:
    """Return a row of the table."""
    right, number = sum(one.num_right for one in scores), sum(one.num_decidable for one in scores)
    return (
        f"| {name} | {predictor} | {len(scores)} | {with_interval(scores, mean_rho, 1)} | "
        f"{with_interval(scores, mean_regret, 100)} | {right:g} of {number}, {with_interval(scores, share_right, 100)} | "
        f"{covered} |"
    )


def judged_table(own: FinishedPairs, judged: Sequence[str], others: FinishedPairs) -> tuple[list[str], Verdict]:
    """Return the lines of the table, and the verdict on `experts`."""
    pairs = [one for one in own.pairs if one.study in judged]
    studies = list(dict.fromkeys(one.study for one in pairs))
    lines = [
        "| study | predictor | tasks | Spearman within a task | regret at 1, points | decidable pairs right, % | covered |",
        "|---|---|---|---|---|---|---|",
    ]
    scores = {predictor: scores_of(pairs, predictor) for predictor in (PRIMARY, *RIVALS)}
    covered, predicted = 0, 0
    for study in studies:
        members = [one for one in pairs if one.study == study]
        calibration = calibration_for(study, judged, others, own)
        shown = "none"
        if calibration is not None:
            inside = [_covers(calibration, one) for one in members]
            covered, predicted = covered + sum(inside), predicted + len(inside)
            shown = f"{sum(inside)} of {len(inside)} by ±{100 * calibration.half_width:.1f} points"
        for predictor, found in scores.items():
            of_study = [one for one in found if one.study == study]
            lines.append(row(study, predictor, of_study, shown if predictor == PRIMARY else "–"))
    share = f"{covered} of {predicted} ({100 * COVERAGE:g} % expected)" if predicted else "none"
    for predictor, found in scores.items():
        lines.append(row(ALL, predictor, found, share if predictor == PRIMARY else "–"))
    return lines, verdict(scores[PRIMARY], {name: scores[name] for name in RIVALS})


def _covers(calibration: Calibration, pair: FinishedPair) -> bool:
    expected = calibration.expected(pair.score)
    return expected.low <= pair.improvement <= expected.high


def pair_lines(pairs: Sequence[FinishedPair]) -> list[str]:
    """Return a row for each pair: what was predicted, and what training gave."""
    lines = [
        "| study | task | candidate | experts, % of bits | PA | bytes | improvement, % | seeds | decided over |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for pair in pairs:
        same = [trained(one) for one in pairs if (one.study, one.task) == (pair.study, pair.task)]
        below = [worse.candidate for better, worse in decidable(same) if better.candidate == pair.candidate]
        lines.append(
            f"| {pair.study} | {pair.task} | {pair.candidate} | {100 * pair.score:+.3f} | {pair.advantage:+.3f} | "
            f"{pair.candidate_bytes:,} | {100 * pair.improvement:+.2f} | {len(pair.improvements)} | "
            f"{', '.join(below) or '–'} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--judge", nargs="+", metavar="STUDY", help="default: every study of the store")
    parser.add_argument("--calibrate-on", type=Path, metavar="STORE", help="a store whose studies are fitted on")
    parser.add_argument("--json", action="store_true", help="print the pairs and the verdict as JSON")
    args = parser.parse_args()
    own = finished_pairs(Store.open(args.store), on_progress=lambda line: None)
    judged = args.judge or list(dict.fromkeys(one.study for one in own.pairs))
    nothing = FinishedPairs(pairs=(), left_out=())
    others = finished_pairs(Store.open(args.calibrate_on)) if args.calibrate_on else nothing
    lines, found = judged_table(own, judged, others)
    pairs = [one for one in own.pairs if one.study in judged]
    if args.json:
        facts = [
            {"study": one.study, "task": one.task, "candidate": one.candidate, "share": one.share, "score": one.score}
            | {"advantage": one.advantage, "bytes": one.candidate_bytes}
            | {"improvements": {str(seed): value for seed, value in one.improvements.items()}}
            for one in pairs
        ]
        print(json.dumps({"pairs": facts, "answer": found.answer, "reasons": found.reasons}, indent=1))
        return
    print("\n".join([*pair_lines(pairs), "", *lines, ""]))
    if (calibration := calibrate({**own.by_study(), **others.by_study()})) is not None:
        print(
            f"line on all {calibration.num_studies} studies, {calibration.num_pairs} pairs: improvement = "
            f"{calibration.slope:.3f} × score, ±{100 * calibration.half_width:.2f} points"
        )
    print("\n".join([f"verdict on {PRIMARY}: {found.answer}", *(f"- {reason}" for reason in found.reasons)]))
    print("\n".join(f"left out: {one}" for one in (*own.left_out, *others.left_out)))


if __name__ == "__main__":
    main()
