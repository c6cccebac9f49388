"""JSON objects that end with the SHA-256 of their own text, by which one that was edited or damaged is known.

It keeps honest people from mistakes; whoever can write the file can also seal it again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

_SEAL = b',\n "sha256": "'
"""What stands between an object's fields and the digest of all bytes before it, which is its last field."""


def sealed(fields: Mapping[str, Any]) -> bytes:
    """`fields`, of which there must be some, as JSON with the digest as their last field `sha256`."""
    body = json.dumps(fields, indent=1, ensure_ascii=False, allow_nan=False).removesuffix("\n}").encode("utf-8")
    return body + _SEAL + _end(body)


def seal_of(text: bytes) -> Literal["whole", "broken", "none"]:
    """Whether the text of an object is the one that was sealed; none where it never was."""
    body, separator, end = text.rpartition(_SEAL)
    if not separator:
        return "none"
    return "whole" if end == _end(body) else "broken"


def _end(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest().encode("ascii") + b'"\n}\n'
