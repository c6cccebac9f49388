"""Compare a finished study with a report of record, which another processor may have made: losses and verdicts.

    python tests/outside/agreement.py STORE STUDY reports/STUDY

prints the processor's vector instructions, the largest difference of a loss over the arms that both have, and the verdicts
that differ, and exits with 1 if a loss differs by more than 0.006 nats or a verdict differs. It reads the tables alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pandas as pd

LIMIT_NATS = 0.006
"""An arm's loss may differ by this much between processors; the smallest difference that the flagship decides is 20 times
that."""

INSTRUCTIONS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16")


def largest_difference(ours: pd.DataFrame, record: pd.DataFrame) -> tuple[int, float]:
    """Return the number of arms (final states) in both tables, and the largest absolute difference of a loss in nats.

    Raises:
        ValueError: no arm is in both, or the tables measure different losses.
    """
    losses = sorted(column for column in record if "loss" in column)
    if losses != sorted(column for column in ours if "loss" in column):
        raise ValueError(f"expected the losses {', '.join(losses)}, got the columns {', '.join(ours)}")
    both = ours.merge(record, on=["state", "task"], suffixes=("", " of record"))
    if both.empty:
        raise ValueError("expected arms of the record, got none: was the study changed after the record was made?")
    return len(both), max(float((both[name] - both[f"{name} of record"]).abs().max()) for name in losses)


def other_verdicts(ours: pd.DataFrame, record: pd.DataFrame) -> list[str]:
    """Return the claims of the record, as text, whose verdict here is another, or missing."""
    verdicts = dict(zip(ours["text"], ours["verdict"], strict=True))
    return [
        f"{text}: {verdicts.get(text, 'not judged')}, on record {verdict}"
        for text, verdict in zip(record["text"], record["verdict"], strict=True)
        if verdicts.get(text) != verdict
    ]


def instructions(cpu_info: str) -> str:
    """Return the vector instructions that decide how products are computed, of those that `/proc/cpuinfo` names."""
    known = set(cpu_info.split())
    return ", ".join(name for name in INSTRUCTIONS if name in known) or "none of " + ", ".join(INSTRUCTIONS)


def main(store: str, study: str, record: str) -> int:
    """Print the comparison and return the exit code."""
    folder = Path(store, "studies", study)
    num_arms, nats = largest_difference(pd.read_csv(folder / "arms.csv"), pd.read_csv(Path(record, "arms.csv")))
    of_record = pd.read_csv(Path(record, "claims.csv"))
    different = other_verdicts(pd.read_csv(folder / "claims.csv"), of_record)
    print(f"processor: {instructions(Path('/proc/cpuinfo').read_text('utf-8'))}")
    print(f"{num_arms} arms as on record: losses differ by at most {nats:.2g} nats (limit {LIMIT_NATS:g})")
    print(f"{len(of_record) - len(different)} of {len(of_record)} verdicts as on record", *different, sep="\n  ")
    return int(nats > LIMIT_NATS or bool(different))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
