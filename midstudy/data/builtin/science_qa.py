"""The science question task, after SciQ: a question, a supporting passage, a short answer.

Items are about chemical elements, from a table with descriptions, and about terms in the documentation of scientific
packages: a term is removed from a sentence and occurs in its neighbours. All items of an element or file are in one split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from midstudy.data.builtin.docstrings import definitions, modules
from midstudy.data.builtin.draw import Draw
from midstudy.data.builtin.elements import Element, elements
from midstudy.data.builtin.packages import open_wheel
from midstudy.data.builtin.prose import is_prose, sentences, text_paragraphs
from midstudy.data.splits import split_by_hash

FIELDS = {
    "chempy": "chemistry",
    "fluids": "fluid mechanics",
    "ht": "heat transfer",
    "librosa": "audio analysis",
    "lifelines": "survival analysis",
    "metpy": "meteorology",
    "pymc": "Bayesian statistics",
    "scikit-rf": "microwave engineering",
    "skyfield": "astronomy",
    "sunpy": "solar physics",
}
PACKAGES = ("mendeleev", *FIELDS)
SUPPORT_CHARS = 400
MAX_PER_DEFINITION = 3

_GAP = (
    "In {field}, which word completes this sentence? {gapped}",
    "Fill in the missing word. {gapped}",
    "{gapped} What is the missing word?",
    "Which term is left out here? {gapped}",
    "A text on {field} says: {gapped} Which word belongs in the gap?",
)


def rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield split and item: elements by atomic number, then packages by name."""
    with open_wheel("mendeleev") as archive:
        for element in elements(archive):
            split = split_by_hash(f"element {element.name}", dev=0.06, test=0.12)
            for number, (question, answer, support) in enumerate(_about(element)):
                yield (
                    split,
                    {
                        "question": question,
                        "answer": answer,
                        "support": support,
                        "source": f"mendeleev {element.name} {number}",
                    },
                )
    seen: set[str] = set()
    for package, field in FIELDS.items():
        with open_wheel(package) as archive:
            for module in modules(archive):
                split = split_by_hash(module, dev=0.06, test=0.12)
                for definition in definitions(archive, module):
                    for item in _gapped(definition.docstring, field, f"{module} {definition.name}"):
                        if item["question"] not in seen:
                            seen.add(item["question"])
                            yield split, item


def _gapped(docstring: str, field: str, source: str) -> Iterator[dict[str, Any]]:
    prose = [text for paragraph in text_paragraphs(docstring) for text in sentences(paragraph) if is_prose(text)]
    num_items = 0
    for place, sentence in enumerate(prose):
        rest = [text for other, text in enumerate(prose) if other != place]
        known = set(re.findall(r"[a-z]{6,}", " ".join(rest)))
        terms = [word for word in re.findall(r"\b[a-z]{6,}\b", sentence) if word in known and word not in _PLAIN]
        if not terms or len(sentence) < 60 or num_items == MAX_PER_DEFINITION:
            continue
        num_items += 1
        term = max(terms, key=lambda word: (len(word), word))
        gapped = re.sub(rf"\b{term}\b", "____", sentence)
        near = sorted(rest, key=lambda text: term not in text)
        support = ""
        for text in near:
            if len(support) + len(text) < SUPPORT_CHARS:
                support = f"{support} {text}".strip()
        question = Draw(f"gap {source} {place}").choice(_GAP).format(field=field, gapped=gapped)
        yield {"question": question, "answer": term, "support": support, "source": f"{source} {place}"}


_PLAIN = frozenset(
    [
        "should",
        "because",
        "before",
        "between",
        "returns",
        "return",
        "function",
        "method",
        "default",
        "number",
        "values",
        "parameters",
        "therefore",
        "example",
        "different",
        "provided",
        "however",
        "without",
        "whether",
        "specified",
        "otherwise",
        "defined",
        "section",
        "further",
        "instead",
        "either",
        "within",
        "current",
        "object",
        "argument",
        "arguments",
        "keyword",
        "called",
        "possible",
        "original",
        "following",
        "calculates",
        "calculate",
        "using",
    ]
)


def _about(element: Element) -> Iterator[tuple[str, str, str]]:
    """Yield question, answer and supporting passage of every fact in the table about an element."""
    draw = Draw(f"element {element.name}")
    name, lower = element.name, element.name.lower()
    described = f"{name} ({element.symbol}): {element.description}"
    if element.uses:
        yield (
            _phrase(draw, ("Which element is meant? {x}", "Name the element with these uses. {x}"), element.uses),
            name,
            described,
        )
        yield (
            _phrase(draw, ("What is {x} used for?", "Name a use of {x}.", "Where is {x} employed?"), lower),
            _first(element.uses),
            described,
        )
    if element.description:
        hidden = re.sub(rf"\b{name}\b", "this element", element.description, flags=re.I)
        placed = f"{name} is element {element.number}, in period {element.period} and block {element.block}."
        yield _phrase(draw, ("Which element fits this description? {x}", "{x} Which element is this?"), hidden), name, placed
    if element.sources:
        question = _phrase(draw, ("Where is {x} found?", "How is {x} obtained?", "Name a source of {x}."), lower)
        yield question, _first(element.sources), described
    if element.name_origin:
        question = _phrase(draw, ("Where does the name {x} come from?", "What is the origin of the word {x}?"), lower)
        yield question, element.name_origin, described
    if element.discoverers and element.discovery_year:
        support = f"{name} was discovered by {element.discoverers} in {element.discovery_year}"
        support += f" in {element.discovery_location}." if element.discovery_location else "."
        yield _phrase(draw, ("Who discovered {x}?", "By whom was {x} found?"), lower), element.discoverers, support
        yield (
            _phrase(draw, ("When was {x} discovered?", "In which year was {x} found?"), lower),
            str(element.discovery_year),
            support,
        )
    yield (
        _phrase(draw, ("To which family of elements does {x} belong?", "What kind of element is {x}?"), lower),
        element.series.lower(),
        described,
    )
    if element.configuration:
        support = f"The electrons of {lower}, element {element.number}, are arranged as {element.configuration}."
        yield (
            _phrase(draw, ("What is the electron configuration of {x}?", "How are the electrons of {x} arranged?"), lower),
            element.configuration,
            support,
        )


def _phrase(draw: Draw, forms: tuple[str, ...], x: str) -> str:
    return draw.choice(forms).format(x=x)


def _first(text: str) -> str:
    return next(sentences(text))
