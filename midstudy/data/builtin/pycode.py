"""The docstring-to-function task, after the paper's PyCode (CodeSearchNet-Python).

The prompt is the description in a function's docstring, without its signature; the target is the function's source without
the docstring. All functions of a file are in one split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.docstrings import Definition, definitions, modules
from midstudy.data.builtin.packages import open_wheel
from midstudy.data.splits import split_by_hash

PACKAGES = ("mlflow-skinny", "prefect-client")
TARGET_CHARS = (200, 1200)
PROMPT_CHARS = (24, 320)

_SKIPPED = re.compile(r"_pb2|/protos/|_generated|/assistant/")
_SECTION = re.compile(
    r"\n\s*\n(?=\s*(?:Args|Arguments|Returns?|Raises|Yields|Examples?|Parameters|Notes?|:param|\.\.|```|>>>))"
)


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and item, files in sorted order."""
    seen: set[str] = set()
    for package in PACKAGES:
        with open_wheel(package) as archive:
            for module in modules(archive):
                if _SKIPPED.search(module):
                    continue
                split = split_by_hash(module, dev=0.05, test=0.13)
                for definition in definitions(archive, module):
                    row = _item(definition)
                    if row is not None and row["output"] not in seen:
                        seen.add(row["output"])
                        yield split, row


def _item(definition: Definition) -> dict[str, Any] | None:
    prompt = _SECTION.split(definition.docstring, maxsplit=1)[0].strip()
    fits = (
        definition.kind == "function"
        and TARGET_CHARS[0] <= len(definition.source) <= TARGET_CHARS[1]
        and PROMPT_CHARS[0] <= len(prompt) <= PROMPT_CHARS[1]
        and definition.source.startswith(("def ", "async def "))
        and (definition.source + prompt).isascii()
        and not _is_stub(definition.source)
    )
    if not fits:
        return None
    source = f"{definition.module} {definition.name}"
    return {"instruction": f'"""{prompt}"""\n', "output": definition.source, "source": source}


def _is_stub(source: str) -> bool:
    last = source.rsplit("\n", 1)[-1].strip()
    return last in ("...", "pass", "raise NotImplementedError", "raise NotImplementedError()")
