"""Rebuild every part and freeze its digests. Run by hand after an intentional change of a list or a preparation:

python -m midstudy.data.builtin.freeze text
python -m midstudy.data.builtin.freeze abilities
"""

from __future__ import annotations

import json
import shutil
import sys
from typing import Any

from midstudy.data.builtin.abilities.prepare import ABILITIES
from midstudy.data.builtin.collection import Collection
from midstudy.data.builtin.prepare import TEXT

_COLLECTIONS = {"text": TEXT, "abilities": ABILITIES}


def freeze(collection: Collection) -> None:
    """Prepare the parts in their order; write the manifest after each part."""
    parts: dict[str, Any] = {}
    manifest = {
        "list": collection.list_sha256,
        "preparation": collection.preparation,
        "revision": collection.revision,
        "parts": parts,
    }
    shutil.rmtree(collection.folder, ignore_errors=True)
    for part in collection.parts:
        folder = collection.folder / part
        folder.mkdir(parents=True)
        parts[part] = collection.write(part, collection.build(part), folder)
        collection.manifest_path.write_text(json.dumps(manifest, indent=1) + "\n", "ascii")
        print(part, json.dumps(parts[part]))


if __name__ == "__main__":
    freeze(_COLLECTIONS[sys.argv[1]])
