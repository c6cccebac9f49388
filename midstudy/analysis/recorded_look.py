"""Record a look at a study's claims in the store, when they are judged with more seeds than before."""

from __future__ import annotations

from dataclasses import replace

from midstudy.analysis.claims import INCONCLUSIVE, estimates, judge
from midstudy.analysis.looks import is_new, now, this_look
from midstudy.analysis.tables import Tables
from midstudy.recipe.registration import claim_digest
from midstudy.store.looks import JudgedClaim, Look, write_looks
from midstudy.store.store import Store


def record_look(store: Store, tables: Tables) -> Tables:
    """Record the look that a report of these tables is; if no claim has more seeds than before, nothing.

    Returns the tables with all recorded looks.

    Raises:
        StoreError: the store cannot be written.
    """
    manifest = tables.manifest
    if not manifest.claims:
        return tables
    judged = judge(tables)
    if not is_new(list(judged["num_seeds"]), manifest.claims, tables.looks):
        return tables
    num_seeds, fraction = this_look(manifest.looks, estimates(tables), tables.looks)
    number = len(tables.looks) + 1
    claims = tuple(
        JudgedClaim(
            text=claim.text,
            digest=claim_digest(manifest, claim),
            num_seeds=int(row["num_seeds"]),
            # A verdict that an earlier look gave is that look's.
            verdict=str(row["verdict"]) if row["look"] == number else INCONCLUSIVE,
        )
        for claim, (_, row) in zip(manifest.claims, judged.iterrows(), strict=True)
    )
    look = Look(time=now(), num_seeds=num_seeds, fraction=fraction, is_planned=bool(manifest.looks), claims=claims)
    looks = (*tables.looks, look)
    write_looks(store, manifest.name, looks)
    return replace(tables, looks=looks)
