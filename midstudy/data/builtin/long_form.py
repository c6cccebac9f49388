"""The long-form task, after LIMA: a question made from a heading or a name, answered by the documentation below it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.docstrings import Definition, definitions, modules
from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.packages import Archive, open_wheel
from midstudy.data.builtin.prose import text_paragraphs
from midstudy.data.splits import split_by_hash

PACKAGES = ("dask", "distributed", "nltk", "pandera", "python-docx", "seaborn", "xarray")
ANSWER_CHARS = (200, 1400)

_FORMS = {
    "class": (
        "What is {name} in {package}, and what is it for?",
        "Explain {name} of {package} to me.",
        "I came across {name} in {package}. How does it work?",
    ),
    "function": (
        "How does {name} work in {package}?",
        "What does {package} do when I call {name}?",
        "Could you explain {name} from {package}, and what to watch out for?",
    ),
    "module": (
        "Give me an overview of {name} in {package}.",
        "What is the part of {package} called {name} about?",
        "What should I know about {name} in {package}?",
    ),
    "section": (
        "{name}: what should I know about it in {package}?",
        "What does the guide of {package} say under the heading {name}?",
        "Tell me about {name} in {package}.",
    ),
}
_HEADING = re.compile(r"^(?:#{1,4} +(?P<hash>[^\n]+)|(?P<line>[^\n]{3,80})\n[-=~^]{3,}) *$", re.M)


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and conversation; each file, and each package description, is in one split."""
    seen: set[str] = set()
    for package in PACKAGES:
        with open_wheel(package) as archive:
            for module in modules(archive):
                split = split_by_hash(module, dev=0.10, test=0.14)
                for definition in definitions(archive, module):
                    if definition.name.rpartition(".")[2].startswith("_"):
                        continue
                    item = _item(definition.kind, _title(definition), package, definition.docstring)
                    if item and item[1] not in seen:
                        seen.add(item[1])
                        yield split, {"conversations": item, "source": f"{module} {definition.name}"}
            for title, text in _sections(archive):
                item = _item("section", title, package, text)
                if item and item[1] not in seen:
                    seen.add(item[1])
                    split = split_by_hash(f"description {package}", dev=0.10, test=0.14)
                    yield split, {"conversations": item, "source": f"{package} description, {title}"}


def _item(kind: str, title: str, package: str, text: str) -> list[str] | None:
    paragraphs: list[str] = []
    for paragraph in text_paragraphs(text, literals=True):
        is_complete = paragraph[:1].isupper() and paragraph[-1:] in ".!?" and paragraph.isascii() and len(paragraph) > 40
        if is_complete and sum(map(len, paragraphs)) + len(paragraph) <= ANSWER_CHARS[1]:
            paragraphs.append(paragraph)
    answer = "\n\n".join(paragraphs)
    if len(answer) < ANSWER_CHARS[0]:
        return None
    form = Draw(f"long form {package} {kind} {title}").choice(_FORMS[kind])
    question = title if title.endswith("?") else form.format(name=title, package=package)
    return [question, answer]


def _title(definition: Definition) -> str:
    if definition.kind == "module":
        return definition.module.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
    return definition.name


def _sections(archive: Archive) -> Iterator[tuple[str, str]]:
    text = archive.description
    headings = list(_HEADING.finditer(text))
    for match, following in zip(headings, [*headings[1:], None], strict=True):
        title = (match["hash"] or match["line"]).strip(" #*`")
        if title.isascii() and not re.search(r"[<>|\[\]]", title):
            yield title, text[match.end() : following.start() if following else len(text)]
