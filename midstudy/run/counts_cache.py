"""Arrays that `midstudy recommend` has made of text, cached under the text's digest. No result depends on the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from midstudy.data.cache import cache_dir
from midstudy.files.atomic import write_bytes
from midstudy.files.errors import UnwritableError

_CACHE_VERSION = 1

Arrays = dict[str, np.ndarray]


def cached(key: list[Any], make: Callable[[], Arrays]) -> Arrays:
    """Return the arrays of a key, made and kept if they are not known."""
    known = read(key)
    if known is None:
        known = make()
        write(key, known)
    return known


def _cache_path(key: list[Any]) -> Path | None:
    digest = hashlib.sha256(json.dumps([_CACHE_VERSION, *key]).encode("utf-8")).hexdigest()
    try:
        return cache_dir() / "recommend" / f"{digest}.safetensors"
    except ValueError:  # no cache folder
        return None


def read(key: list[Any]) -> Arrays | None:
    """Return the arrays of a key; `None` if they are not known or damaged."""
    path = _cache_path(key)
    if path is None:
        return None
    try:
        return load_file(path)
    except (OSError, SafetensorError):
        return None


def write(key: list[Any], arrays: Arrays) -> None:
    """Keep the arrays of a key, if there is a cache folder that can be written."""
    path = _cache_path(key)
    if path is None:
        return
    content = save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    try:
        write_bytes(path, content, durable=False)
    except UnwritableError:
        return  # the cache only saves time
