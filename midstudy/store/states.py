"""Published states as the planner needs them: where training can go on from, and how fast it went."""

from __future__ import annotations

from dataclasses import dataclass, field

from midstudy.plan.planner import KeptState
from midstudy.store.store import Store


@dataclass
class PublishedStates:
    """States with an optimizer, from which training can go on, and (shape, precision, tokens a second) of all."""

    kept: list[KeptState] = field(default_factory=list)
    rates: list[tuple[str, str, float]] = field(default_factory=list)


def published_states(store: Store) -> PublishedStates:
    """Look through the records of every finished state in the store, whichever study asked for it."""
    found = PublishedStates()
    for identity in store.stage_ids():
        if not store.has(identity):
            continue
        record = store.record(identity)
        if record.kind != "state":
            continue
        metrics = record.metrics
        if metrics["has_optimizer"]:
            found.kept.append(KeptState(stretch_from=metrics["stretch_from"], step=metrics["step"], id=identity))
            if "tokens_per_s" in metrics:
                found.rates.append((metrics["size"], metrics["precision"], metrics["tokens_per_s"]))
    return found
