"""JSON objects that end with the SHA-256 of their own text, so that edits and damage are detected.

This protects against mistakes, not against attackers: anyone who can write the file can also seal it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

_SEAL = b',\n "sha256": "'
"""Bytes between an object's other fields and its last field, the digest of all bytes before this separator."""


def sealed(fields: Mapping[str, Any]) -> bytes:
    """Return `fields`, at least one, as JSON with the digest as the last field `sha256`."""
    body = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}").encode("utf-8")
    return body + _SEAL + _end(body)


def is_whole(text: bytes) -> bool:
    """Return whether the text is unchanged since it was sealed."""
    body, separator, end = text.rpartition(_SEAL)
    return bool(separator) and end == _end(body)


def _end(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode("ascii") + b'"\n}\n'
