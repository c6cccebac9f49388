"""`midstudy recommend`, before any training: rank candidate corpora for a target, by byte n-gram experts.

General text is split by documents into halves: one is the general expert, the other a placebo, mixed in as a candidate is.
Every expert but the target's is counted on equally many bytes, of documents that are sampled by the hash of their text.
Counts and scans are cached under the digests of the text; no result depends on the cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from midstudy.data.cache import cache_dir
from midstudy.data.duplicates import KnownDocuments
from midstudy.data.hash_sample import HashSample, batches_of
from midstudy.data.named_text import NamedText
from midstudy.data.overlap import TestItems
from midstudy.data.splits import unit_hash
from midstudy.files.atomic import write_bytes
from midstudy.files.errors import UnwritableError
from midstudy.recipe.errors import RecipeError, require_number
from midstudy.run.pool import leave_interrupts
from midstudy.similarity.byte_expert import NUM_GROUPS, ByteCounts
from midstudy.similarity.distribution import TokenDistribution, mix, similarity
from midstudy.similarity.expert_gain import Scored, bits_per_byte, gain_of
from midstudy.similarity.hashed_words import NUM_BINS, bin_counts, log_importance, mean_importance
from midstudy.similarity.proximity import ProximityAdvantage, proximity_advantage
from midstudy.similarity.ranking import Ranked, rank
from midstudy.similarity.word_order import RANDOM_BELOW, order_score
from midstudy.store.store import Store

SAMPLE_BYTES = 4_000_000
DEV_BYTES = 1_000_000
FEW_DOCUMENTS = 100
NUM_NEAREST = 5
_CACHE_VERSION = 1
_SHOWN_CHARACTERS = 160
_WORTH_PROCESSES_BYTES = 2**25

OnProgress = Callable[[str], None]
Arrays = dict[str, np.ndarray]


class ContaminatedError(ValueError):
    """A candidate holds text of the target's test split."""


@dataclass(frozen=True)
class Near:
    """A document of a candidate that is close to the target: where it is, its beginning, and its mean log importance."""

    where: str
    beginning: str
    log_importance: float


@dataclass(frozen=True)
class Scan:
    """What was found in a whole candidate: documents in general text too, and those nearest to the target."""

    num_documents: int
    exact_copies: int
    near_copies: int
    contaminated: Sequence[str]
    nearest: Sequence[Near]


@dataclass(frozen=True)
class Candidate:
    """All that is known of one candidate. `general_cost` is in bits per byte of general dev text; above 0 is worse.

    `set_aside`: why it is not ranked, or empty.
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


@dataclass(frozen=True)
class Recommendation:
    """Candidates in the order of the ranking, those set aside last."""

    target: NamedText
    general: NamedText
    share: float
    dev_documents: int
    dev_bytes: int
    target_bits_per_byte: float
    general_bits_per_byte: float
    placebo_gain: float
    candidates: Sequence[Candidate]
    expected_improvement: str
    deciding_command: str
    notes: Sequence[str]

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
                for one in self.candidates
            ],
            "expected_improvement": self.expected_improvement,
            "deciding_command": self.deciding_command,
            "notes": list(self.notes),
        }
        return json.dumps(facts, indent=1, allow_nan=False)


def _text_facts(text: NamedText) -> dict[str, Any]:
    return {"name": text.name, "source": text.argument, "revision": text.revision}


def recommend(
    *,
    target: NamedText,
    general: NamedText,
    candidates: Sequence[NamedText],
    share: float,
    store: Path,
    on_progress: OnProgress = lambda line: None,
) -> Recommendation:
    """Rank the candidates for the target.

    Args:
        share: the candidate's share of the tokens, in (0, 1).
        store: studies in it are counted for the expected improvement.
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
    size = sum(text.size_bytes or _WORTH_PROCESSES_BYTES for text in (general, *candidates))
    num_processes = min(len(candidates), len(os.sched_getaffinity(0))) if size > _WORTH_PROCESSES_BYTES else 1
    on_progress(f"{general.name}: counting")
    halves = _halves(general)
    budget = int(halves["budget"])
    task = _counted(target, SAMPLE_BYTES)
    counts = _counts(candidates, budget, num_processes, on_progress)

    scored = Scored(_required(_dev(target), target, "dev"))
    on_general = Scored(_required(_dev(general), general, "dev"))
    trunk = _byte_counts(halves, "general")
    base, cost_base = (one.expert(trunk).probabilities() for one in (scored, on_general))
    tuned = scored.expert(_byte_counts(task)).probabilities()
    placebo = gain_of(scored.expert(_byte_counts(halves, "placebo")), general=base, task=tuned, scored=scored, share=share)
    gains, costs = {}, {}
    for text, one in zip(candidates, counts, strict=True):
        of_bytes = _byte_counts(one)
        gains[text.name] = gain_of(scored.expert(of_bytes), general=base, task=tuned, scored=scored, share=share)
        cost = gain_of(on_general.expert(of_bytes), general=cost_base, task=None, scored=on_general, share=share)
        costs[text.name] = -float(cost.bits_by_document.sum() / on_general.bytes_by_document.sum())
    asides = {
        text.name: "its words are in random order, which byte 4-grams cannot judge"
        if float(one["order_score"]) < RANDOM_BELOW
        else ""
        for text, one in zip(candidates, counts, strict=True)
    }
    ranked: dict[str, Ranked] = {}
    for names in ([n for n in gains if not asides[n]], [n for n in gains if asides[n]]):
        if names:
            found = rank({n: gains[n] for n in names}, placebo=placebo, bytes_by_document=scored.bytes_by_document)
            ranked |= {one.name: one for one in found}

    key_words = log_importance(task["bins"], halves["bins"])
    scans = _scans(target, general, candidates, key_words, num_processes, on_progress)
    found_text = {text.name: scan.contaminated for text, scan in zip(candidates, scans, strict=True) if scan.contaminated}
    if found_text:
        raise ContaminatedError(_contaminated(found_text, target))
    by_name = {text.name: (text, one, scan) for text, one, scan in zip(candidates, counts, scans, strict=True)}
    results = [
        Candidate(
            text=by_name[name][0],
            num_documents=int(by_name[name][1]["whole_documents"]),
            num_bytes=int(by_name[name][1]["whole_bytes"]),
            sampled_bytes=int(by_name[name][1]["num_bytes"]),
            ranked=one,
            general_cost=costs[name],
            advantage=_advantage(by_name[name][1]["bins"], halves["bins"], task["bins"], share),
            order_score=float(by_name[name][1]["order_score"]),
            scan=by_name[name][2],
            set_aside=asides[name],
        )
        for name, one in ranked.items()
    ]
    return Recommendation(
        target=target,
        general=general,
        share=share,
        dev_documents=int(scored.bytes_by_document.size),
        dev_bytes=int(scored.bytes_by_document.sum()),
        target_bits_per_byte=bits_per_byte(general=base, task=tuned, scored=scored),
        general_bits_per_byte=bits_per_byte(general=cost_base, task=None, scored=on_general),
        placebo_gain=float(placebo.bits_by_document.sum() / scored.bytes_by_document.sum()),
        candidates=results,
        expected_improvement=_expected_improvement(store),
        deciding_command=deciding_command(target, general, undecided(results), share=share),
        notes=_notes(results, budget, int(scored.bytes_by_document.size)),
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

    A study reads folders, wheels and the Hub. For a single file, and a folder of another name, the result says what to do.
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


def _required(documents: list[bytes], text: NamedText, split: str) -> list[bytes]:
    if not documents:
        raise RecipeError(
            f"recommend.{text.name}", expected=f"documents in the {split} split", got=f"none in {text.argument}"
        )
    return documents


def _advantage(candidate: np.ndarray, general: np.ndarray, task: np.ndarray, share: float) -> ProximityAdvantage:
    c, g, t = (TokenDistribution.from_counts(counts) for counts in (candidate, general, task))
    return proximity_advantage(
        mix_to_task=similarity(mix([(c, share), (g, 1 - share)]), t), control_to_task=similarity(g, t)
    )


def _expected_improvement(root: Path) -> str:
    store = Store.open(root) if root.is_dir() and any(root.iterdir()) else None
    number = sum((store.paths.study(name) / "arms.parquet").exists() for name in store.studies()) if store else 0
    shown = "no study" if number == 0 else f"{number} {'study' if number == 1 else 'studies'}"
    return f"none: {shown}, and no prediction from studies has been judged on a study that was left out"


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
        if one.set_aside:
            notes.append(f"{name}: not ranked: {one.set_aside}.")
    if dev_documents < FEW_DOCUMENTS:
        notes.append(f"only {dev_documents} dev documents of the target: intervals are rough.")
    return notes


# -- counting ---------------------------------------------------------------------------------------------------------


def _each(
    work: Callable[[NamedText], Any], texts: Sequence[NamedText], num_processes: int, on_progress: OnProgress, done: str
) -> list[Any]:
    if min(num_processes, len(texts)) < 2:
        results = []
        for number, text in enumerate(texts, start=1):
            results.append(work(text))
            on_progress(f"{done} {number} of {len(texts)} candidates")
        return results
    results = []
    with ProcessPoolExecutor(num_processes, get_context("spawn"), initializer=leave_interrupts) as pool:
        try:
            for number, result in enumerate(pool.map(work, texts), start=1):
                results.append(result)
                on_progress(f"{done} {number} of {len(texts)} candidates")
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _counts(texts: Sequence[NamedText], max_bytes: int, num_processes: int, on_progress: OnProgress) -> list[Arrays]:
    found = {text.name: _cache_read(_counts_key(text, max_bytes)) for text in texts}
    missing = [text for text in texts if found[text.name] is None]
    counted = _each(partial(_counted, max_bytes=max_bytes), missing, num_processes, on_progress, "counted")
    made = {text.name: arrays for text, arrays in zip(missing, counted, strict=True)}
    return [found[text.name] or made[text.name] for text in texts]


def _counts_key(text: NamedText, max_bytes: int) -> list[Any]:
    return ["counts", text.identity, max_bytes]


def _counted(text: NamedText, max_bytes: int) -> Arrays:
    def count() -> Arrays:
        sample, whole = HashSample(max_bytes=max_bytes), [0, 0]
        for document in text.documents():
            sample.add(document)
            whole = [whole[0] + 1, whole[1] + len(document.encode("utf-8"))]
        if not whole[0]:
            raise RecipeError(f"recommend.{text.name}", expected="documents with text", got=f"none in {text.argument}")
        documents = sample.documents()
        return _arrays(documents) | {
            "bins": _bins(documents),
            "order_score": np.array(order_score(documents)),
            "whole_documents": np.array(whole[0]),
            "whole_bytes": np.array(whole[1]),
        }

    return _cached(_counts_key(text, max_bytes), count)


def _halves(general: NamedText) -> Arrays:
    """Count two disjoint halves of general text without its dev split, of equal bytes: `general` and `placebo`."""

    def count() -> Arrays:
        held = set(general.documents(split="dev")) if general.path is not None else set()
        samples = {name: HashSample(max_bytes=SAMPLE_BYTES) for name in ("general", "placebo")}
        for document in general.documents():
            if document not in held:
                samples["general" if unit_hash(document) < 0.5 else "placebo"].add(document)
        documents = {name: sample.documents() for name, sample in samples.items()}
        budget = min(sum(len(text.encode("utf-8")) for text in texts) for texts in documents.values())
        if not budget:
            raise RecipeError(
                f"recommend.{general.name}", expected="at least two documents in each half of general text",
                got=f"fewer in {general.argument}",
            )  # fmt: skip
        arrays: Arrays = {"budget": np.array(budget)}
        for name, texts in documents.items():
            kept = HashSample(max_bytes=budget)
            for text in texts:
                kept.add(text)
            arrays |= {f"{name}.{key}": value for key, value in _arrays(kept.documents()).items()}
            if name == "general":
                arrays["bins"] = _bins(kept.documents())
        return arrays

    return _cached(["halves", general.identity, SAMPLE_BYTES], count)


def _arrays(documents: Sequence[str]) -> Arrays:
    encoded = [text.encode("utf-8") for text in documents]
    groups = [hashlib.blake2b(text, digest_size=8).digest()[0] % NUM_GROUPS for text in encoded]
    counts = ByteCounts.of(encoded, groups)
    return {
        "keys": counts.keys,
        "counts": counts.counts,
        "num_documents": np.array(counts.num_documents),
        "num_bytes": np.array(counts.num_bytes),
    }


def _bins(documents: Sequence[str]) -> np.ndarray:
    counts = np.zeros(NUM_BINS, np.int64)
    for batch in batches_of(documents):
        counts += bin_counts(batch)
    return counts


def _byte_counts(arrays: Arrays, part: str = "") -> ByteCounts:
    prefix = f"{part}." if part else ""
    return ByteCounts(
        arrays[f"{prefix}keys"],
        arrays[f"{prefix}counts"],
        int(arrays[f"{prefix}num_documents"]),
        int(arrays[f"{prefix}num_bytes"]),
    )


def _dev(text: NamedText) -> list[bytes]:
    def read() -> Arrays:
        sample = HashSample(max_bytes=DEV_BYTES)
        for document in text.documents(split="dev"):
            sample.add(document)
        encoded = [document.encode("utf-8") for document in sample.documents()]
        return {
            "bytes": np.frombuffer(b"".join(encoded), np.uint8),
            "lengths": np.array([len(one) for one in encoded], np.int64),
        }

    arrays = _cached(["dev", text.identity, DEV_BYTES], read)
    joined, ends = arrays["bytes"].tobytes(), np.cumsum(arrays["lengths"]).tolist()
    return [joined[end - length : end] for end, length in zip(ends, arrays["lengths"].tolist(), strict=True)]


# -- scanning ---------------------------------------------------------------------------------------------------------


def _scans(
    target: NamedText,
    general: NamedText,
    candidates: Sequence[NamedText],
    log_ratio: np.ndarray,
    num_processes: int,
    on_progress: OnProgress,
) -> list[Scan]:
    found: dict[str, Scan] = {}
    for text in candidates:
        known = _cache_read(_scan_key(text, target, general))
        if known is not None:
            found[text.name] = _scan_of(json.loads(known["scan"].tobytes()))
    missing = [text for text in candidates if text.name not in found]
    if missing:
        on_progress("reading the test split and general text")
        work = partial(
            scan_text,
            items=TestItems(target.documents(split="test")),
            known=KnownDocuments(batches_of(general.documents())),
            log_ratio=log_ratio,
        )
        for text, scan in zip(missing, _each(work, missing, num_processes, on_progress, "scanned"), strict=True):
            found[text.name] = scan
            content = json.dumps(asdict(scan)).encode("utf-8")
            _cache_write(_scan_key(text, target, general), {"scan": np.frombuffer(content, np.uint8)})
    return [found[text.name] for text in candidates]


def _scan_key(text: NamedText, target: NamedText, general: NamedText) -> list[Any]:
    # The place is in the key, because messages name files.
    return ["scan", text.place, *(one.identity for one in (text, target, general))]


def _scan_of(facts: Mapping[str, Any]) -> Scan:
    return Scan(**{**facts, "nearest": tuple(Near(**one) for one in facts["nearest"])})


def scan_text(text: NamedText, *, items: TestItems, known: KnownDocuments, log_ratio: np.ndarray) -> Scan:
    """Read one candidate to its end: contamination with test items, copies of general text, and the nearest documents."""
    num_documents = exact = near = 0
    contaminated: list[str] = []
    nearest: dict[str, Near] = {}
    batch: list[tuple[str, str]] = []
    size = 0

    def flush() -> None:
        nonlocal num_documents, exact, near, nearest
        texts = [document for _, document in batch]
        num_documents += len(texts)
        contaminated.extend(where for where, document in batch if items.overlaps(document))
        some = known.copies(texts)
        exact, near = exact + some[0], near + some[1]
        scores = mean_importance(texts, log_ratio)
        for place in np.argsort(-scores, kind="stable")[:NUM_NEAREST].tolist():
            where, document = batch[place]
            beginning = " ".join(document[: 4 * _SHOWN_CHARACTERS].split())[:_SHOWN_CHARACTERS]
            nearest.setdefault(document, Near(where, beginning, float(scores[place])))
        best = sorted(nearest.items(), key=lambda one: -one[1].log_importance)[:NUM_NEAREST]
        nearest = dict(best)
        batch.clear()

    for where, document in text.located_documents():
        if document.strip():
            batch.append((where, document.strip()))
            size += len(document)
        if size >= 2**20:
            flush()
            size = 0
    if batch:
        flush()
    return Scan(num_documents, exact, near, tuple(contaminated), tuple(nearest.values()))


# -- cache ------------------------------------------------------------------------------------------------------------


def _cached(key: list[Any], make: Callable[[], Arrays]) -> Arrays:
    known = _cache_read(key)
    if known is None:
        known = make()
        _cache_write(key, known)
    return known


def _cache_path(key: list[Any]) -> Path | None:
    digest = hashlib.sha256(json.dumps([_CACHE_VERSION, *key]).encode("utf-8")).hexdigest()
    try:
        return cache_dir() / "recommend" / f"{digest}.safetensors"
    except ValueError:  # no cache folder
        return None


def _cache_read(key: list[Any]) -> Arrays | None:
    path = _cache_path(key)
    if path is None:
        return None
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def _cache_write(key: list[Any], arrays: Arrays) -> None:
    path = _cache_path(key)
    if path is None:
        return
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    try:
        write_bytes(path, content, durable=False)
    except UnwritableError:
        return  # the cache only saves time
