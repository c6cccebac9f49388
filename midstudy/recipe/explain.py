"""Explain why two recipes have different ids: list the fields that differ, by dotted path."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Difference:
    """One field that differs; a side without the field holds `MISSING`."""

    path: str
    left: Any
    right: Any


MISSING = "(absent)"


def differences(left: Any, right: Any, path: str = "") -> list[Difference]:
    """Return the leaves in which two canonical forms (plain JSON) differ, in order of their paths."""
    if isinstance(left, dict) and isinstance(right, dict):
        differing: list[Difference] = []
        for key in sorted(left.keys() | right.keys()):
            where = f"{path}.{key}" if path else key
            if key not in left or key not in right:
                differing.append(Difference(where, left.get(key, MISSING), right.get(key, MISSING)))
            else:
                differing += differences(left[key], right[key], where)
        return differing
    if isinstance(left, list) and isinstance(right, list):
        differing = []
        for index in range(max(len(left), len(right))):
            where = f"{path}[{index}]"
            if index >= len(left) or index >= len(right):
                differing.append(
                    Difference(
                        where,
                        left[index] if index < len(left) else MISSING,
                        right[index] if index < len(right) else MISSING,
                    )
                )
            else:
                differing += differences(left[index], right[index], where)
        return differing
    if left != right or isinstance(left, bool) != isinstance(right, bool):
        return [Difference(path, left, right)]
    return []


def shown(value: Any) -> str:
    """Return a field's value as JSON, cut after 200 characters."""
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} … ({len(text)} characters)"
