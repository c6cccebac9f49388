"""Rebuild every part and freeze its digests. Run by hand after an intentional change of the list or the preparation:

python -m midstudy.data.builtin.freeze
"""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import Any

from midstudy.data.builtin.packages import LIST
from midstudy.data.builtin.prepare import CORPORA, FROZEN, PREPARATION, TASKS, build, list_digest, write
from midstudy.data.cache import cache_dir


def freeze() -> None:
    """Prepare the tasks, then the corpora, which must not contain test items; write the manifest after each part."""
    parts: dict[str, Any] = {}
    manifest = {
        "list": hashlib.sha256(LIST.read_bytes()).hexdigest(),
        "preparation": PREPARATION,
        "revision": list_digest(),
        "parts": parts,
    }
    shutil.rmtree(cache_dir() / "prepared" / list_digest()[:16], ignore_errors=True)
    for part in TASKS + CORPORA:
        folder = cache_dir() / "prepared" / list_digest()[:16] / part
        folder.mkdir(parents=True)
        parts[part] = write(part, build(part), folder)
        FROZEN.write_text(json.dumps(manifest, indent=1) + "\n", "ascii")
        print(part, json.dumps(parts[part]))


if __name__ == "__main__":
    freeze()
