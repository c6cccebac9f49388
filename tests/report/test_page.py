"""The report's page on the screen and on paper, as a browser shows and prints it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders.browser import chromium
from nbformat import v4

from midstudy.report.html import Html, Text, details, small, table
from midstudy.report.page import page

NUM_ROWS = 300


MEASURE = """<script>
const tables = [...document.querySelectorAll(".table")].map((one) => [one.scrollWidth, one.clientWidth].join("/"));
document.body.dataset.widths = tables.join(" ");
</script>"""
"""Writes the widths of every table's content and of the room that it has, in pixels, into the page."""


def written(folder: Path, content: Html, *, script: str = "") -> Path:
    output = v4.new_output("display_data", data={"text/html": content.markup})
    html = folder / "page.html"
    text = page(v4.new_notebook(cells=[v4.new_code_cell("", outputs=[output])]), title="A study")
    html.write_text(text.replace("</body>", f"{script}</body>"), "utf-8")
    return html


def printed(folder: Path, content: Html) -> bytes:
    html = written(folder, content)
    chromium(folder / "profile", "--no-pdf-header-footer", f"--print-to-pdf={folder / 'page.pdf'}", html.as_uri())
    return (folder / "page.pdf").read_bytes()


def num_pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


@pytest.mark.slow
def test_collapsed_parts_are_printed(tmp_path: Path) -> None:
    rows = [(f"arm {number}", "1.0") for number in range(NUM_ROWS)]
    pdf = printed(tmp_path, details("All arms", table(("arm", "loss"), rows, caption="Losses.")))
    assert num_pages(pdf) > 3, "a collapsed table would leave one page"


@pytest.mark.slow
def test_a_table_as_wide_as_the_widest_of_a_report_fits_a_screen_of_1280_pixels(tmp_path: Path) -> None:
    """Twelve columns: a long name, then numbers and intervals, which do not wrap; prose in small print does."""
    name, interval = "instruction 5 % from step 157", "[−0.165, 0.302]"
    row: list[Text] = [
        name,
        "3",
        "184k",
        "4.790",
        "4.485",
        "+0.305",
        interval,
        interval,
        "+6.4",
        "0.0001",
        "0.0006",
        small(name),
    ]
    shown = table(["column"] * len(row), [row] * 3, caption="Effects.")
    html = written(tmp_path, shown, script=MEASURE)
    dom = chromium(tmp_path / "profile", "--window-size=1280,1000", "--dump-dom", html.as_uri())
    (widths,) = re.findall(r'data-widths="(\d+)/(\d+)"', dom)
    content, room = map(int, widths)
    assert content <= room
