"""`midstudy recommend`, before any training: rank candidate corpora for a target, by byte n-gram experts."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from midstudy.analysis.calibration import COVERAGE, MIN_STUDIES, Calibration, Expected, calibrate
from midstudy.data.named_text import NamedText
from midstudy.recipe.errors import RecipeError, require_number
from midstudy.run.candidate_scan import Scan, scans
from midstudy.run.expert_scores import expert_scores, processes_for
from midstudy.run.proxy import Proxy
from midstudy.similarity.proximity import ProximityAdvantage
from midstudy.similarity.ranking import Ranked, rank
from midstudy.similarity.word_order import RANDOM_BELOW
from midstudy.store.store import Store

FEW_DOCUMENTS = 100
JUDGED = (
    "on three targets in six studies, right on 24 of 25 decidable pairs, regret at 1 of 0.28 points; failed all the same, "
    "since proximity advantage or more tokens had less regret in three of the six"
)
"""What came of judging the ranking on studies that were trained after it was frozen (LOG.md, 2026-11-27)."""

OnProgress = Callable[[str], None]


class ContaminatedError(ValueError):
    """A candidate holds text of the target's test split."""


@dataclass(frozen=True)
class Candidate:
    """All that is known of one candidate. `general_cost` is in bits per byte of general dev text; above 0 is worse.

    `set_aside`: why it is not ranked, or empty. `expected`: its relative improvement of the target's loss after fine-tuning,
    `None` if it is set aside or there are too few finished studies.
    """

    text: NamedText
    num_documents: int
    num_bytes: int
    sampled_bytes: int
    ranked: Ranked
    general_cost: float
    advantage: ProximityAdvantage
    order_score: float
    scan: Scan
    set_aside: str
    expected: Expected | None


@dataclass(frozen=True)
class Recommendation:
    """Candidates in the order of the ranking, those set aside last.

    `smallest_bytes`: of train text that general text and every candidate have at least. `proxy`: what small models say, if
    they were trained.
    """

    target: NamedText
    general: NamedText
    share: float
    smallest_bytes: int
    dev_documents: int
    dev_bytes: int
    target_bits_per_byte: float
    general_bits_per_byte: float
    placebo_gain: float
    candidates: Sequence[Candidate]
    expected_improvement: str
    deciding_command: str
    notes: Sequence[str]
    proxy: Proxy | None = None

    @property
    def judged(self) -> str:
        """What came of judging the ranking on trained studies."""
        return JUDGED

    @property
    def ranked(self) -> list[Candidate]:
        return [one for one in self.candidates if not one.set_aside]

    def as_json(self) -> str:
        """Return everything as JSON."""
        facts: dict[str, Any] = {
            "target": _text_facts(self.target),
            "general": _text_facts(self.general),
            "share": self.share,
            "dev_documents": self.dev_documents,
            "dev_bytes": self.dev_bytes,
            "target_bits_per_byte": self.target_bits_per_byte,
            "general_bits_per_byte": self.general_bits_per_byte,
            "placebo_gain_bits_per_byte": self.placebo_gain,
            "candidates": [
                _text_facts(one.text)
                | {"documents": one.num_documents, "bytes": one.num_bytes, "sampled_bytes": one.sampled_bytes}
                | {"ranking": asdict(one.ranked), "general_cost_bits_per_byte": one.general_cost}
                | {"proximity_advantage": asdict(one.advantage), "scan": asdict(one.scan)}
                | {"order_score": one.order_score if np.isfinite(one.order_score) else None, "set_aside": one.set_aside}
                | {"expected": _expected_facts(one.expected)}
                for one in self.candidates
            ],
            "expected_improvement": self.expected_improvement,
            "judged": self.judged,
            "deciding_command": self.deciding_command,
            "notes": list(self.notes),
            "proxy": asdict(self.proxy) if self.proxy else None,
        }
        return json.dumps(facts, indent=1, allow_nan=False)


def _expected_facts(expected: Expected | None) -> dict[str, Any] | None:
    if expected is None:
        return None
    return {name: value if np.isfinite(value) else None for name, value in asdict(expected).items()}


def _text_facts(text: NamedText) -> dict[str, Any]:
    return {"name": text.name, "source": text.argument, "revision": text.revision}


def recommend(
    *,
    target: NamedText,
    general: NamedText,
    candidates: Sequence[NamedText],
    share: float,
    store: Path | None = None,
    on_progress: OnProgress = lambda line: None,
) -> Recommendation:
    """Rank the candidates for the target.

    Args:
        share: the candidate's share of the tokens, in (0, 1).
        store: its finished studies calibrate the expected improvement; without it none is expected.
        on_progress: called with a line of text.

    Raises:
        ContaminatedError: a candidate holds text of the target's test split; the message names the places.
        RecipeError: the share or a name is wrong, or a split has no text.
        ValueError: a source cannot be read.
    """
    require_number("--share", share, 1e-6, 1.0, what="a share of the tokens")
    _require_names([target, general, *candidates])
    if target.path is not None:
        raise RecipeError(
            "--target", expected="a source with a dev and a test split", got=f"the single file {target.path}",
            fix="Put it into a folder as train.jsonl, beside test.jsonl.",
        )  # fmt: skip
    num_processes = processes_for((general, *candidates), at_most=len(candidates))
    scores = expert_scores(
        target=target,
        general=general,
        candidates=candidates,
        share=share,
        num_processes=num_processes,
        on_progress=on_progress,
    )
    asides = {
        name: "its words are in random order, which byte 4-grams cannot judge"
        if float(one["order_score"]) < RANDOM_BELOW
        else ""
        for name, one in scores.counts.items()
    }
    ranked: dict[str, Ranked] = {}
    for names in ([n for n in asides if not asides[n]], [n for n in asides if asides[n]]):
        if names:
            some = {name: scores.gains[name] for name in names}
            found = rank(some, placebo=scores.placebo, bytes_by_document=scores.bytes_by_document)
            ranked |= {one.name: one for one in found}

    calibration, said = _calibration(store, on_progress)
    by_name = {text.name: text for text in candidates}
    found_scans = dict(
        zip(by_name, scans(target, general, candidates, scores.log_importance, num_processes, on_progress), strict=True)
    )
    if found_text := {name: scan.contaminated for name, scan in found_scans.items() if scan.contaminated}:
        raise ContaminatedError(_contaminated(found_text, target))
    results = [
        Candidate(
            text=by_name[name],
            num_documents=int(scores.counts[name]["whole_documents"]),
            num_bytes=int(scores.counts[name]["whole_bytes"]),
            sampled_bytes=int(scores.counts[name]["num_bytes"]),
            ranked=one,
            general_cost=scores.costs[name],
            advantage=scores.advantage(name),
            order_score=float(scores.counts[name]["order_score"]),
            scan=found_scans[name],
            set_aside=asides[name],
            expected=None if calibration is None or asides[name] else calibration.expected(scores.relative_gain(name)),
        )
        for name, one in ranked.items()
    ]
    return Recommendation(
        target=target,
        general=general,
        share=share,
        smallest_bytes=min(2 * scores.budget_bytes, *(one.num_bytes for one in results)),
        dev_documents=int(scores.bytes_by_document.size),
        dev_bytes=int(scores.bytes_by_document.sum()),
        target_bits_per_byte=scores.target_bits_per_byte,
        general_bits_per_byte=scores.general_bits_per_byte,
        placebo_gain=scores.per_byte(scores.placebo),
        candidates=results,
        expected_improvement=said,
        deciding_command=deciding_command(target, general, undecided(results), share=share),
        notes=_notes(results, scores.budget_bytes, int(scores.bytes_by_document.size)),
    )


def undecided(candidates: Sequence[Candidate]) -> list[NamedText]:
    """Return the candidates of the first group that has several; empty if every group has one."""
    ranked = [one for one in candidates if not one.set_aside]
    for group in sorted({one.ranked.group for one in ranked}):
        members = [one.text for one in ranked if one.ranked.group == group]
        if len(members) > 1:
            return members
    return []


def deciding_command(target: NamedText, general: NamedText, candidates: Sequence[NamedText], *, share: float) -> str:
    """Return the command of the study that trains with each candidate; empty without candidates.

    For a folder of another name, which a study does not find, the result says what to do.
    """
    if not candidates:
        return ""
    command = ["midstudy", "run", "experiments/deciding.py"]
    for text in (target, general, *candidates):
        values = text.study_values()
        if values is None:
            return f"put the text of {text.name} into DIR/{text.name}/train.jsonl and give {text.name}=DIR for a command"
        for value in values:
            command += ["--data", f"{text.name}={value}"]
    settings = {
        "general": repr(general.name),
        "candidates": repr(tuple(text.name for text in candidates)),
        "target": repr(target.name),
        "target_folder": repr(f"sft/{target.name}" if target.is_task else target.name),
        "share": repr(share),
    }
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    return shlex.join(command)


def _require_names(texts: Sequence[NamedText]) -> None:
    names = [text.name for text in texts]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"recommend.{name}", expected="each name once", got=f"{name} twice", fix="Rename one of them.")


def _calibration(root: Path | None, on_progress: OnProgress) -> tuple[Calibration | None, str]:
    """Return the calibration on the finished studies of a store, and what is said of it."""
    if root is None or not Store(root).paths.schema.exists():  # another folder may bear the name of the default store
        return None, "none: no study"
    from midstudy.run.finished_pairs import finished_pairs, finished_studies  # loads pandas, half a second

    store = Store.open(root)
    names = finished_studies(store)
    shown = "no study" if not names else f"{len(names)} {'study' if len(names) == 1 else 'studies'}"
    if len(names) < MIN_STUDIES:
        return None, f"none: {shown}"
    found = finished_pairs(store, on_progress=on_progress)
    calibration = calibrate(found.by_study())
    if calibration is None:
        number = len(found.by_study())
        return None, f"none: {number} of {shown} have a corpus mixed into general text and a task that can be scored"
    return calibration, (
        f"{100 * COVERAGE:g} % intervals from {calibration.num_pairs} corpora and tasks of {calibration.num_studies} "
        f"studies, each left out once; valid for training like theirs"
    )


def _contaminated(found: Mapping[str, Sequence[str]], target: NamedText) -> str:
    lines = []
    for name, places in found.items():
        more = f" and {len(places) - 5:,} more" if len(places) > 5 else ""
        lines.append(
            f"{name}: expected no text of the test split of {target.name} (13 words in sequence, or a whole item), got "
            f"{len(places):,} document(s): {', '.join(places[:5])}{more}. Remove them."
        )
    return "\n".join(lines)


def _notes(candidates: Sequence[Candidate], budget: int, dev_documents: int) -> list[str]:
    notes = []
    for one in candidates:
        name = one.text.name
        if one.num_documents < FEW_DOCUMENTS:
            notes.append(f"{name}: too small to judge: {one.num_documents} documents; its interval is rough and wide.")
        if one.sampled_bytes < 0.9 * budget:
            notes.append(f"{name}: {one.sampled_bytes:,} of {budget:,} bytes: its expert read less than those of others.")
        if one.scan.exact_copies + one.scan.near_copies > one.scan.num_documents / 2:
            notes.append(f"{name}: mostly a duplicate of general text.")
        if not one.set_aside and one.ranked.over_placebo_low <= 0:
            notes.append(f"{name}: no gain over more general text.")
        if one.expected is not None and one.expected.is_extrapolation:
            notes.append(f"{name}: extrapolation: its gain is outside those of finished studies.")
        if one.set_aside:
            notes.append(f"{name}: not ranked: {one.set_aside}.")
    if dev_documents < FEW_DOCUMENTS:
        notes.append(f"only {dev_documents} dev documents of the target: intervals are rough.")
    return notes
