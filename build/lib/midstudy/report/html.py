"""Pieces of HTML that a notebook cell shows: text, tables, figures with captions. Everything given as str is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path


@dataclass(frozen=True)
class Html:
    """Markup that a notebook renders as it is."""

    markup: str

    def __repr__(self) -> str:
        return "Html(...)"  # the notebook keeps this beside the markup, which it would only repeat

    def _repr_html_(self) -> str:
        return self.markup

    def __add__(self, other: Html) -> Html:
        return Html(self.markup + "\n" + other.markup)


Text = str | Html


def markup(text: Text) -> str:
    """A text's markup, escaped unless it is markup already."""
    return text.markup if isinstance(text, Html) else escape(text)


def element(tag: str, *content: Text, css: str = "") -> Html:
    """<tag class="css">content</tag>."""
    opening = f'<{tag} class="{escape(css)}">' if css else f"<{tag}>"
    return Html(opening + "".join(markup(one) for one in content) + f"</{tag}>")


def paragraph(*content: Text, css: str = "") -> Html:
    """A paragraph."""
    return element("p", *content, css=css)


def bold(text: Text) -> Html:
    """Strong text."""
    return element("strong", text)


def code(text: str) -> Html:
    """A name as it is typed."""
    return element("code", text)


def lines(texts: Iterable[Text]) -> Html:
    """Texts one under the other."""
    return Html("<br>".join(markup(text) for text in texts))


def bullets(items: Iterable[Text], css: str = "") -> Html:
    """A list."""
    return element("ul", *(element("li", item) for item in items), css=css)


def small(text: Text) -> Html:
    """A remark below a number; it may wrap where a number may not."""
    return element("span", text, css="small")


def details(summary: str, content: Html) -> Html:
    """Content that a reader opens."""
    return Html(f"<details><summary>{escape(summary)}</summary>\n{content.markup}\n</details>")


@dataclass(frozen=True)
class Heading:
    """A row of a table that names the rows below it."""

    text: str


Row = Sequence[Text] | Heading


def table(columns: Sequence[Text], rows: Iterable[Row], *, caption: Text, num_text_columns: int = 1) -> Html:
    """A table with a caption above it; the first ``num_text_columns`` are set left, the others right, as numbers are.

    One text column holds names, which do not wrap; several hold prose, which does.
    """
    text_side = "text name" if num_text_columns == 1 else "text"
    sides = [text_side if index < num_text_columns else "number" for index in range(len(columns))]
    head = "".join(f'<th class="{side}">{markup(name)}</th>' for side, name in zip(sides, columns, strict=True))
    body = []
    for row in rows:
        if isinstance(row, Heading):
            body.append(f'<tr><th class="group" colspan="{len(columns)}">{escape(row.text)}</th></tr>')
        else:
            cells = "".join(f'<td class="{side}">{markup(cell)}</td>' for side, cell in zip(sides, row, strict=True))
            body.append(f"<tr>{cells}</tr>")
    # The caption stands before the table, not in it: it keeps the page's width when the table has to scroll.
    return Html(
        f'<div class="caption">{markup(caption)}</div>\n<div class="table"><table class="report">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table></div>"
    )


def image(path: Path, *, alternative: str, caption: Text) -> Html:
    """A PNG embedded in the page, with its caption below."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return Html(
        f'<figure><img alt="{escape(alternative)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{markup(caption)}</figcaption></figure>"
    )
