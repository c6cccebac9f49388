"""Recompute the table of arms of a finished study from its store alone, with nothing of the project's own code.

It reads the frozen manifest, the expanded recipes, the published tokens, tokenizers and items, and prints the largest
deviation of each quantity of `arms.parquet`, and of the counts of every item:

    python tests/outside/recompute.py STORE STUDY

Formulas: learning rates are linear, cosine and 1-sqrt ramps, or constant. Dose of a data set: Σ rate × share over the steps,
divided by Σ rate of the run. Tokens of a corpus: of the first n sequences of a run with one specialist, floor(T + 1/2) are
the specialist's, where T is the exact sum of its share over the n sequences. Seen share of a task: target tokens among the
first seq_len + 1 tokens of each train item, divided by all its target tokens; the first token of an item is no target. Bits
per byte: nats of text targets / (ln 2 × their bytes), where a token has one byte for each letter of its spelling in
tokenizer.json, and end-of-text and special tokens have none.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from fractions import Fraction
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd


class Outside:
    """A finished study, read from its folder and from the stages of its store."""

    def __init__(self, store: Path, study: str) -> None:
        self._stages = store / "stages"
        folder = store / "studies" / study
        self.manifest = json.loads((folder / "manifest.json").read_text("utf-8"))
        self.arms = pd.read_parquet(folder / "arms.parquet")
        self.items = pd.read_parquet(folder / "items.parquet") if (folder / "items.parquet").exists() else None

    def deviations(self) -> dict[str, float]:
        """Return the largest absolute deviation of each quantity over all arms; `num_arms` and `num_items` count them.

        Doses, shares and losses are absolute; tokens, items, target tokens and bytes are counts.
        """
        found: dict[str, float] = {"num_arms": len(self.arms), "num_items": 0}

        def note(name: str, expected: float, got: float) -> None:
            difference = abs(expected - got)
            found[name] = max(found.get(name, 0.0), math.inf if math.isnan(difference) else difference)

        for row, arm in enumerate(self.manifest["arms"]):
            shown = self.arms.iloc[row]
            run = self._run(arm["state"])
            doses, tokens, items = dose(run), tokens_drawn(run), items_drawn(run)
            for kind, computed in (("dose", doses), ("tokens", tokens), ("items", items)):
                names = {name.partition(":")[2] for name in self.arms.columns if name.startswith(f"{kind}:")}
                for name in names | set(computed):
                    note(kind, computed.get(name, 0), float(shown[f"{kind}:{name}"]))
            note("num_tokens", sum(tokens.values()), float(shown["num_tokens"]))
            for task in items:
                note("seen", self._seen(arm["state"], task), float(shown[f"seen:{task}"]))
            for column, (evaluation, *more) in arm["measures"].items():
                if not more:
                    for name, expected, got in self._measured(row, column, evaluation):
                        note(name, expected, got)
                        found["num_items"] += name == "target_tokens"
        return found

    def _measured(self, row: int, column: str, evaluation: str) -> Iterator[tuple[str, float, float]]:
        """Yield what a column's value and its items should be, and what they are."""
        folder = self._stages / evaluation / "published"
        if not (folder / "items.parquet").exists():
            return
        items = pd.read_parquet(folder / "items.parquet")
        recipe = self._recipe(evaluation)["evaluation"]
        has_bytes, num_bytes = "bytes" in items, 0
        bytes_of = self._token_bytes(self._tokens_of(evaluation, recipe["data"]))
        for item, targets in zip(items.itertuples(), self._targets(evaluation, items["item"]), strict=True):
            yield "target_tokens", len(targets), float(item.target_tokens)
            if has_bytes:
                of_item = int(bytes_of[targets].sum())
                num_bytes += of_item
                yield "bytes", of_item, float(item.bytes)
        if self.items is not None:
            kept = self.items[(self.items["arm"] == row) & (self.items["column"] == column)]
            yield "items_table", float(items["nats"].sum()), float(kept["nats"].sum())
        shown = float(self.arms[column].iloc[row])
        metric = self.manifest["columns"][column]["metric"]
        if metric == "loss_nats":
            yield "loss_nats", math.fsum(items["nats"]) / int(items["target_tokens"].sum()), shown
        elif metric == "bits_per_byte":
            yield "bits_per_byte", math.fsum(items["text_nats"]) / (math.log(2) * num_bytes), shown

    def _targets(self, evaluation: str, items: Iterable[int]) -> Iterator[np.ndarray]:
        """Yield the ids of the target tokens of every item of an evaluation."""
        recipe = self._recipe(evaluation)["evaluation"]
        split = self._split(self._tokens_of(evaluation, recipe["data"]), recipe["split"])
        size = recipe["seq_len"] + 1
        for item in items:
            if recipe["data"]["is"] == "Corpus":
                yield split.tokens[item * size + 1 : (item + 1) * size]
            else:
                begin, end = int(split.offsets[item]), int(split.offsets[item + 1])
                first = max(1, int(split.prompts[item])) if recipe["loss"] == "target_tokens" else 1
                yield split.tokens[begin:end][first:size]

    def _seen(self, state: str, task: str) -> float:
        """Return the share of a task's target tokens within the sequence length of the last phase that reads it."""
        one = state
        while True:
            recipe = self._recipe(one)["curriculum"]["stretches"][-1]["phase"]
            if recipe["data"]["is"] == "Task" and recipe["data"]["name"] == task:
                break
            one = next(parent for parent in self._stage(one)["parents"] if self._stage(parent)["kind"] == "state")
        split = self._split(self._tokens_of(one, recipe["data"]), "train")
        ends = np.diff(split.offsets)
        first = np.maximum(split.prompts, 1)
        seen = np.clip(np.minimum(ends, recipe["seq_len"] + 1) - first, 0, None)
        return float(seen.sum() / (ends - first).sum())

    def _run(self, state: str) -> dict[str, Any]:
        run = self._with_chosen(self._recipe(state)["curriculum"])
        if run["start"]["weights"] is not None:
            raise ValueError(f"{state}: expected weights that are drawn, got {run['start']['weights']['is']}")
        return run

    def _with_chosen(self, value: Any) -> Any:
        """Return a recipe with what the recorded decisions chose: the option lowest on dev."""
        if isinstance(value, list):
            return [self._with_chosen(one) for one in value]
        if not isinstance(value, dict):
            return value
        if value.get("is") != "Chosen":
            return {name: self._with_chosen(one) for name, one in value.items()}
        states = {option["state_id"] for option in value["choice"]["options"]}
        measured = {option["state"]: option["measured"] for option in self._decisions[frozenset(states)]["options"]}
        best = min((one for one in measured if measured[one] is not None), key=measured.__getitem__)
        return next(option["value"] for option in value["choice"]["options"] if option["state_id"] == best)

    @cached_property
    def _decisions(self) -> dict[frozenset[str], dict[str, Any]]:
        """Return what was recorded of every decision of the study, by the states among which it chose."""
        stages = [one for one, stage in self.manifest["stages"].items() if stage["kind"] == "decision"]
        found = [
            json.loads((self._stages / one / "published" / "record.json").read_text("utf-8"))["metrics"] for one in stages
        ]
        return {frozenset(option["state"] for option in one["options"]): one for one in found}

    def _tokens_of(self, stage: str, data: Mapping[str, Any]) -> str:
        """Return the stage that tokenised a data set, among the parents of a stage that reads it."""
        (found,) = (
            one
            for one in self._stage(stage)["parents"]
            if self._stage(one)["kind"] == "tokens" and self._recipe(one)["data"] == data
        )
        return found

    @cache  # noqa: B019
    def _stage(self, stage: str) -> dict[str, Any]:
        return json.loads((self._stages / stage / "recipe.json").read_text("utf-8"))

    def _recipe(self, stage: str) -> dict[str, Any]:
        return self._stage(stage)["recipe"]

    @cache  # noqa: B019
    def _split(self, tokens: str, split: str) -> Split:
        return Split(self._stages / tokens / "published", split)

    @cache  # noqa: B019
    def _token_bytes(self, tokens: str) -> np.ndarray:
        """Return the bytes of every token id of the tokenizer behind some tokens."""
        (tokenizer,) = (one for one in self._stage(tokens)["parents"] if self._stage(one)["kind"] == "tokenizer")
        stated = json.loads((self._stages / tokenizer / "published" / "tokenizer.json").read_text("utf-8"))
        special = {token["id"] for token in stated["added_tokens"]}
        vocabulary = stated["model"]["vocab"]
        counts = np.zeros(1 + max(*vocabulary.values(), *special), np.int64)
        for spelling, number in vocabulary.items():
            counts[number] = 0 if number in special else len(spelling)
        return counts


class Split:
    """Tokens of a split: flat little-endian ids, 16 or 32 bits; offsets of its documents; for a task its prompt lengths."""

    def __init__(self, folder: Path, name: str) -> None:
        def read(ending: str, kind: str) -> list[np.ndarray]:
            return [np.fromfile(path, kind) for path in sorted(folder.glob(f"{name}-*.{ending}"))]

        stated = json.loads((folder / f"{name}.shards.json").read_text("utf-8"))
        parts = read("tokens", f"<u{stated.get('id_bytes', 2)}")
        offsets, prompts = read("offsets", "<i8"), read("prompts", "<i8")
        starts = np.cumsum([0, *(len(part) for part in parts)])
        self.tokens = np.concatenate(parts)
        self.offsets = np.concatenate([[0], *(one[1:] + start for one, start in zip(offsets, starts, strict=False))])
        self.prompts = np.concatenate(prompts) if prompts else np.zeros(len(self.offsets) - 1, np.int64)


def rate(curve: Mapping[str, Any], step: int) -> float:
    """Return the learning rate of the update that follows `step`."""
    segment = [one for one in curve["segments"] if one["start_step"] <= step][-1]
    if segment["is"] == "Hold":
        return float(segment["lr"])
    if segment["is"] != "Ramp":
        raise ValueError(f"expected constant rates and ramps, got {segment['is']}")
    share = min(1.0, (step - segment["start_step"] + segment["skipped_steps"]) / segment["num_steps"])
    first, last = float(segment["from_lr"]), float(segment["to_lr"])
    done = {"linear": share, "cosine": (1 - math.cos(math.pi * share)) / 2, "1-sqrt": math.sqrt(share)}[segment["shape"]]
    return first * (1 - done) + last * done


def shares(data: Mapping[str, Any]) -> dict[str, Fraction]:
    """Return the exact share of every data set that a phase reads."""
    if data["is"] == "Task":
        return {data["name"]: Fraction(1)}
    if data["is"] != "Mixture":
        raise ValueError(f"expected tasks and constant mixtures, got {data['is']}")
    parts = [*([data["base"]] if data["base"] else []), *data["specialists"]]
    return {part["corpus"]["name"]: Fraction(part["share"]) for part in parts}


def dose(run: Mapping[str, Any]) -> dict[str, float]:
    """Return Σ rate × share / Σ rate of every data set."""
    amounts: dict[str, list[float]] = {}
    rates: list[float] = []
    for stretch in run["stretches"]:
        of_phase = [rate(run["curve"], step) for step in range(stretch["start_step"], stretch["stop_step"])]
        rates += of_phase
        for name, share in shares(stretch["phase"]["data"]).items():
            amounts.setdefault(name, []).extend(float(share) * one for one in of_phase)
    total = math.fsum(rates)
    return {name: math.fsum(values) / total if total else 0.0 for name, values in amounts.items()}


def tokens_drawn(run: Mapping[str, Any]) -> dict[str, int]:
    """Return the tokens of every corpus, counted over the sequences of the run in turn."""
    totals: dict[str, int] = {}
    due: dict[str, Fraction] = {}
    drawn: dict[str, int] = {}
    for stretch in run["stretches"]:
        phase = stretch["phase"]
        if phase["data"]["is"] == "Task":
            continue
        if phase["data_positions"] == "reset":
            due, drawn = {}, {}
        base = phase["data"]["base"]["corpus"]["name"] if phase["data"]["base"] else None
        of_phase = {name: share for name, share in shares(phase["data"]).items() if name != base}
        if len({*drawn, *of_phase}) > 1:
            raise ValueError(f"expected at most one specialist, got {', '.join({*drawn, *of_phase})}")
        for _ in range((stretch["stop_step"] - stretch["start_step"]) * phase["num_sequences"]):
            taken = base
            for name, share in of_phase.items():
                due[name] = due.get(name, Fraction(0)) + share
                if math.floor(due[name] + Fraction(1, 2)) > drawn.get(name, 0):
                    drawn[name], taken = drawn.get(name, 0) + 1, name
            totals[str(taken)] = totals.get(str(taken), 0) + phase["seq_len"]
    return totals


def items_drawn(run: Mapping[str, Any]) -> dict[str, int]:
    """Return the items of every task."""
    totals: dict[str, int] = {}
    for stretch in run["stretches"]:
        if stretch["phase"]["data"]["is"] == "Task":
            number = (stretch["stop_step"] - stretch["start_step"]) * stretch["phase"]["num_sequences"]
            name = stretch["phase"]["data"]["name"]
            totals[name] = totals.get(name, 0) + number
    return totals


if __name__ == "__main__":
    print(json.dumps(Outside(Path(sys.argv[1]), sys.argv[2]).deviations(), indent=1))
