"""Extract plain English sentences from documentation in HTML, reStructuredText or Markdown.

A sentence with anything like code (identifiers, signatures, markup, addresses, tables, doctests) is dropped, to keep the
general corpus distinct from code.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

_CODE_HTML = re.compile(r"<(code|pre|a href=\"[^\"]*\"><code)\b.*?</code>(?:</a>)?|<pre>.*?</pre>", re.S)
_BREAK_HTML = re.compile(r"</?(?:p|li|ul|ol|dl|dt|dd|note|important|div|h\d|br|table|tr|td|th|caution|title|b>)\b[^>]*>")
_TAG = re.compile(r"<[^>]{0,400}>")
_SPACE = re.compile(r"\s+")
_SENTENCE_END = re.compile(r"(?<=[a-z0-9)\]\"'][.!?])\s+(?=[A-Z\"'(])")
_ABBREVIATED = re.compile(r"(?:\b(?:e\.g|i\.e|etc|vs|cf|al|Dr|Mr|Ms|No|Fig|Eq|Inc|Corp|approx|resp)\.|\b[A-Z]\.)$")

CODE_MARK = "\x00"
"""Placeholder for code inside prose until its sentence is dropped."""

_CODE = re.compile(
    r"[\x00_{}<>\\`|=$^~#*@\[\]]|https?:|www\.|::|\(\)|\.\w+\(|\b[a-z]+[A-Z]|[a-z][A-Z][a-z]|\b\w+/\w+/"
    r"|\b[A-Za-z]+\.[a-z]+\b|--|\barn:|[A-Za-z]:[A-Za-z0-9]|[^\x20-\x7e]"
)
_GOOD_START = re.compile(r"[\"'(]?[A-Z][a-z']*[ ,]")
_TYPOGRAPHY = str.maketrans(
    {
        "\u2019": "'",
        "\u2018": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u2013": "-",
        "\u2014": " - ",
        "\u00a0": " ",
        "\u2026": "...",
    }
)


def html_paragraphs(markup: str, *, literals: bool = False) -> Iterator[str]:
    """Yield the paragraphs and list items of documentation HTML, as one line each.

    Inline code becomes `CODE_MARK`; if `literals` is set, it stays as plain text.
    """
    spaced = _SPACE.sub(" ", markup)
    marked = spaced if literals else _CODE_HTML.sub(CODE_MARK, spaced)
    plain = _TAG.sub("", _BREAK_HTML.sub("\n", marked))
    for block in html.unescape(plain).translate(_TYPOGRAPHY).split("\n"):
        text = " ".join(block.split())
        if text:
            yield text


def one_line(text: str) -> str:
    """Replace typographic quotes and dashes by ASCII, and every run of white space by one space."""
    return _SPACE.sub(" ", text.translate(_TYPOGRAPHY)).strip()


def sentences(paragraph: str) -> Iterator[str]:
    """Yield the sentences of a one-line paragraph, including those with code."""
    if ". " not in paragraph and "! " not in paragraph and "? " not in paragraph:
        yield paragraph
        return
    held = ""
    for piece in _SENTENCE_END.split(paragraph):
        held = f"{held} {piece}" if held else piece
        if not _ABBREVIATED.search(held):
            yield held
            held = ""
    if held:
        yield held


def is_prose(sentence: str) -> bool:
    """True if a sentence is plain English: usual start and end, at least six words, nothing like code."""
    return (
        40 <= len(sentence) < 600
        and sentence[-1] in ".!?"
        and _GOOD_START.match(sentence) is not None
        and sentence.count(" ") >= 5
        and _CODE.search(sentence) is None
    )


_RST_ROLE = re.compile(r":[a-z:+-]+:`~?\.?([^`<]+?)(?:\s*<[^`]*>)?`")
_RST_LINK = re.compile(r"`([^`<]+?)\s*<[^`>]*>`_{0,2}")
_MD_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_LITERAL = re.compile(r"``[^`]+``|`[^`]+`")
_EMPHASIS = re.compile(r"(?<![\w*])\*{1,2}([^*\n]+?)\*{1,2}(?![\w*])")
_FENCE = re.compile(r"```.*?```|~~~.*?~~~", re.S)
_FIRST_IS_MARKUP = re.compile(r"\s*(?:>>>|\.\. |:[a-z]+|\||\+[-=]|[-=~^\"'#*+]{3,}|<|\$|@|\.\.\.|[-*+] |\d+\. |#)")


def text_paragraphs(text: str, *, literals: bool = False) -> Iterator[str]:
    """Yield the unindented prose paragraphs of reStructuredText or Markdown, one line each.

    Literal text in a paragraph becomes `CODE_MARK`; if `literals` is set, it stays without its quotes.
    """
    for block in re.split(r"\n[ \t]*\n", _FENCE.sub("", text)):
        lines = block.strip("\n").split("\n")
        if any(line[:1] in " \t" for line in lines) or _FIRST_IS_MARKUP.match(lines[0]):
            continue
        if len(lines) > 1 and re.fullmatch(r"[-=~^\"'#*+]{3,}", lines[1].strip()):
            continue
        if any(re.match(r"\w[\w ]*:\s|\w+ : ", line) for line in lines[:1]) and len(lines[0]) < 40:
            continue
        yield one_line(unmarked(block, literals=literals))


def unmarked(text: str, *, literals: bool) -> str:
    """Reduce roles, links and emphasis to their visible words; `literals` as in `text_paragraphs`."""
    text = _RST_ROLE.sub(r"\1", text)
    text = _MD_LINK.sub(r"\1", _RST_LINK.sub(r"\1", text))
    text = _LITERAL.sub(lambda match: match[0].strip("`") if literals else CODE_MARK, text)
    return _EMPHASIS.sub(r"\1", text)
