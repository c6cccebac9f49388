"""HTML elements for notebook cells: text, tables, figures with captions. Arguments of type str are escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path


@dataclass(frozen=True)
class Html:
    """Markup that a notebook renders unchanged."""

    markup: str

    def __repr__(self) -> str:
        return "Html(...)"  # the notebook stores this next to the markup, so it need not repeat it

    def _repr_html_(self) -> str:
        return self.markup

    def __add__(self, other: Html) -> Html:
        return Html(self.markup + "\n" + other.markup)


Text = str | Html


def markup(text: Text) -> str:
    """Return the markup of a text, escaped unless it is already markup."""
    return text.markup if isinstance(text, Html) else escape(text)


def element(tag: str, *content: Text, css: str = "") -> Html:
    """Return <tag class="css">content</tag>."""
    opening = f'<{tag} class="{escape(css)}">' if css else f"<{tag}>"
    return Html(opening + "".join(markup(part) for part in content) + f"</{tag}>")


def section(title: str, shown: Html, *, intro: Text = "") -> Html:
    """Return content under a heading and an introductory paragraph; nothing if there is no content."""
    if not shown.markup.strip():
        return Html("")
    return element("h2", title) + (paragraph(intro) if markup(intro) else Html("")) + shown


def paragraph(*content: Text, css: str = "") -> Html:
    """Return a paragraph."""
    return element("p", *content, css=css)


def bold(text: Text) -> Html:
    """Return bold text."""
    return element("strong", text)


def code(text: str) -> Html:
    """Return text in a monospaced font, for names as they are typed."""
    return element("code", text)


def lines(texts: Iterable[Text]) -> Html:
    """Return texts on separate lines."""
    return Html("<br>".join(markup(text) for text in texts))


def bullets(items: Iterable[Text], css: str = "") -> Html:
    """Return a bulleted list."""
    return element("ul", *(element("li", item) for item in items), css=css)


def small(text: Text) -> Html:
    """Return small print below a number; unlike the number it may wrap."""
    return element("span", text, css="small")


def details(summary: str, content: Html) -> Html:
    """Return collapsed content that the reader can open."""
    return Html(f"<details><summary>{escape(summary)}</summary>\n{content.markup}\n</details>")


@dataclass(frozen=True)
class Heading:
    """A table row that is a heading for the rows below it."""

    text: str


Row = Sequence[Text] | Heading


def table(columns: Sequence[Text], rows: Iterable[Row], *, caption: Text, num_text_columns: int = 1) -> Html:
    """Return a table with a caption above it.

    The first `num_text_columns` columns are aligned left, the others, which hold numbers, right. A single text column holds
    names and does not wrap; several hold prose and wrap.
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
    # The caption is outside the table, so that it keeps the page's width when the table scrolls.
    return Html(
        f'<div class="caption">{markup(caption)}</div>\n<div class="table"><table class="report">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n" + "\n".join(body) + "\n</tbody></table></div>"
    )


def image(path: Path, *, alternative: str, caption: Text) -> Html:
    """Return a PNG embedded in the page, with its caption below."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return Html(
        f'<figure><img alt="{escape(alternative)}" src="data:image/png;base64,{data}">\n'
        f"<figcaption>{markup(caption)}</figcaption></figure>"
    )
