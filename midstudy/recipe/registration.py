"""What a study registers before its first result: every claim, the definition of its comparison, and the planned looks.

Seeds are not part of a definition: a study that grows by further seeds keeps its registration.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from midstudy.recipe.factors import Value
from midstudy.recipe.manifest import ComparisonEntry, Manifest
from midstudy.recipe.study import Claim


@dataclass(frozen=True, kw_only=True)
class Registered:
    """Definitions of claims as of one run: the first ones of the study, or changed ones.

    `time` is UTC in ISO 8601. `num_results` of the study's `num_evaluations` evaluations were finished then, those of the
    manifest before the change included. `changes` says what differs from the registration before, and is empty in the first.
    """

    time: str
    digest: str
    num_results: int
    num_evaluations: int
    definitions: Mapping[str, Any]
    changes: tuple[str, ...] = ()

    @property
    def when(self) -> str:
        """`before the first result`, or `after` and the number of results that existed."""
        if not self.num_results:
            return "before the first result"
        return f"after {self.num_results} of {self.num_evaluations} results"


def definitions_of(manifest: Manifest) -> dict[str, Any]:
    """Return all that decides the study's claims, except data and seeds, as plain JSON.

    Keys: claims (a list, fields as in `Claim`), comparisons (by name, those that claims refer to, with their cells), seeds
    (the factors that repeat an arm), looks.
    """
    named = {claim.comparison for claim in manifest.claims}
    plain = {
        "claims": [asdict(claim) for claim in manifest.claims],
        "comparisons": {one.name: _comparison(manifest, one) for one in manifest.comparisons if one.name in named},
        "seeds": list(manifest.seeds),
        "looks": list(manifest.looks),
    }
    return dict(json.loads(json.dumps(plain)))  # tuples become lists, as they are when the file is read


def digest_of(definitions: Mapping[str, Any]) -> str:
    """Return the SHA-256 of definitions, in hexadecimal."""
    return hashlib.sha256(json.dumps(definitions, sort_keys=True).encode("utf-8")).hexdigest()


def claim_digest(manifest: Manifest, claim: Claim) -> str:
    """Return the SHA-256 of one claim with its comparison's definition: the same claim has the same one in every run."""
    found = next((one for one in manifest.comparisons if one.name == claim.comparison), None)
    return digest_of({"claim": asdict(claim), "comparison": found and _comparison(manifest, found)})


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what `after` changes in the definitions `before`, in words: claims added, removed and changed, comparisons,
    looks."""
    found: list[str] = []
    old, new = _by_text(before["claims"]), _by_text(after["claims"])
    found += [f"claim added: {name}" for name in new if name not in old]
    found += [f"claim removed: {name}" for name in old if name not in new]
    for kind, one, other in (("claim", old, new), ("comparison", before["comparisons"], after["comparisons"])):
        for name in (name for name in other if name in one):
            fields = [f"{field} {change}" for field, change in _differing(one[name], other[name])]
            found += [f"{kind} changed: {name}: {'; '.join(fields)}"] if fields else []
    rest_before, rest_after = ({name: one[name] for name in ("seeds", "looks")} for one in (before, after))
    found += [f"{field} changed: {change}" for field, change in _differing(rest_before, rest_after)]
    return tuple(found)


def _comparison(manifest: Manifest, comparison: ComparisonEntry) -> dict[str, Any]:
    columns = {name: asdict(manifest.columns[name]) for name in comparison.columns}
    return {
        "arms": _cells(manifest, comparison.arms),
        "references": _cells(manifest, comparison.references),
        "columns": {
            name: {field: one[field] for field in ("metric", "better", "data", "split")} for name, one in columns.items()
        },
        "match": list(comparison.match),
        "along": comparison.along,
    }


def _cells(manifest: Manifest, rows: tuple[int, ...]) -> list[dict[str, Value]]:
    """Return the factors of the rows without the seeds, each combination once, in an order that does not depend on seeds."""
    cells = {
        json.dumps(
            {name: value for name, value in manifest.arms[row].factors.items() if name not in manifest.seeds}, sort_keys=True
        )
        for row in rows
    }
    return [json.loads(text) for text in sorted(cells)]


def _by_text(claims: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return claims by their text; a text that is used again has a number."""
    seen: Counter[str] = Counter()
    found = {}
    for claim in claims:
        text = claim["text"]
        seen[text] += 1
        found[text if seen[text] == 1 else f"{text} ({seen[text]})"] = claim
    return found


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the fields that differ, each with its change in words; of lists of cells, how many were added and removed."""
    for field in dict.fromkeys((*before, *after)):
        old, new = before.get(field), after.get(field)
        if old == new:
            continue
        if field in ("arms", "references") and isinstance(old, list) and isinstance(new, list):
            added, removed = sum(one not in old for one in new), sum(one not in new for one in old)
            yield (
                field,
                ", ".join(f"{number} cells {verb}" for number, verb in ((added, "added"), (removed, "removed")) if number),
            )
        else:
            yield field, f"{json.dumps(old, ensure_ascii=False)} → {json.dumps(new, ensure_ascii=False)}"
