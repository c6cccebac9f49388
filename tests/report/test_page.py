"""The report's page on paper, as a browser prints it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from builders.browser import chromium
from nbformat import v4

from midstudy.report.html import Html, details, table
from midstudy.report.page import page

NUM_ROWS = 300


def printed(folder: Path, content: Html) -> bytes:
    output = v4.new_output("display_data", data={"text/html": content.markup})
    html = folder / "page.html"
    html.write_text(page(v4.new_notebook(cells=[v4.new_code_cell("", outputs=[output])]), title="A study"), "utf-8")
    chromium(folder / "profile", "--no-pdf-header-footer", f"--print-to-pdf={folder / 'page.pdf'}", html.as_uri())
    return (folder / "page.pdf").read_bytes()


def num_pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


@pytest.mark.slow
def test_collapsed_parts_are_printed(tmp_path: Path) -> None:
    rows = [(f"arm {number}", "1.0") for number in range(NUM_ROWS)]
    pdf = printed(tmp_path, details("All arms", table(("arm", "loss"), rows, caption="Losses.")))
    assert num_pages(pdf) > 3, "a collapsed table would leave one page"
