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
    if type(left) is type(right) and isinstance(left, dict | list):
        left_items, right_items = (one if isinstance(one, dict) else dict(enumerate(one)) for one in (left, right))
        differing: list[Difference] = []
        for key in sorted(left_items.keys() | right_items.keys()):
            where = f"{path}[{key}]" if isinstance(left, list) else f"{path}.{key}".lstrip(".")
            if key in left_items and key in right_items:
                differing += differences(left_items[key], right_items[key], where)
            else:
                differing.append(Difference(where, left_items.get(key, MISSING), right_items.get(key, MISSING)))
        return differing
    if left != right or isinstance(left, bool) != isinstance(right, bool):
        return [Difference(path, left, right)]
    return []


def shown(value: Any) -> str:
    """Return a field's value as JSON, cut after 200 characters."""
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]} … ({len(text)} characters)"
