"""Convert an executed notebook into one self-contained HTML page: outputs without code, no scripts, no external files.

The page has a second style for paper.
"""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbformat import NotebookNode

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #fff; color: #1a1a1a; font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto,
  "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 900px; margin: 0 auto; padding: 24px 20px 80px; counter-reset: figure table; }
h1 { font-size: 28px; line-height: 1.2; margin: 16px 0 20px; }
h2 { font-size: 21px; line-height: 1.3; margin: 52px 0 10px; padding-top: 10px; border-top: 1px solid #ddd; }
p { margin: 10px 0; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 0.87em; }
code { overflow-wrap: anywhere; }
pre { background: #f5f6f7; padding: 12px 14px; overflow-x: auto; line-height: 1.5; }
.summary { border-left: 4px solid #0072b2; background: #f3f7fa; padding: 10px 20px; margin: 0 0 12px; }
.summary .question { color: #4d4d4d; font-style: italic; }
.summary ul.answer { font-size: 17px; padding-left: 20px; }
.summary ul.answer li { margin: 7px 0; }
.warning { background: #fdf1dc; border-left: 4px solid #d98c00; padding: 8px 14px; }
.note { color: #4d4d4d; font-style: italic; }
figure { margin: 22px 0 26px; }
figure img { width: 100%; height: auto; display: block; }
figcaption, .caption { font-size: 14px; line-height: 1.45; color: #444; text-align: left; }
figcaption { margin-top: 8px; }
.caption { margin-top: 18px; }
figcaption::before { counter-increment: figure; content: "Figure " counter(figure) ". "; font-weight: 600; color: #1a1a1a; }
.caption::before { counter-increment: table; content: "Table " counter(table) ". "; font-weight: 600; color: #1a1a1a; }
.table { overflow-x: auto; margin: 4px calc(-1 * clamp(0px, (100vw - 960px) / 2, 150px)) 24px 0; }
table.report { border-collapse: collapse; font-size: 14px; line-height: 1.35; min-width: 50%;
  font-variant-numeric: tabular-nums; }
table.report th, table.report td { padding: 4px 6px; vertical-align: top; }
table.report thead th { border-bottom: 1.5px solid #555; vertical-align: bottom; font-weight: 600; }
table.report tbody tr { border-bottom: 1px solid #e6e6e6; }
table.report th.group { text-align: left; background: #f5f6f7; font-weight: 600; }
table.report .text { text-align: left; }
table.report .number { text-align: right; }
table.report td.number { white-space: nowrap; }
table.report td.name { min-width: 10em; }
table.report .small { white-space: normal; font-size: 12.5px; color: #444; }
.verdict-yes, .verdict-no { font-weight: 600; white-space: nowrap; }
.verdict-yes { color: #00694e; }
.verdict-no { color: #a63f00; }
.verdict-inconclusive { color: #4d4d4d; white-space: nowrap; }
details { margin: 14px 0; }
summary { cursor: pointer; color: #00568a; }
"""

_PRINT_STYLE = """
@page { size: A4; margin: 15mm 12mm 17mm; @bottom-right { content: counter(page) " / " counter(pages); font-size: 8pt; } }
@media print {
  body { font-size: 10pt; print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  main { max-width: none; padding: 0; }
  h1 { font-size: 17pt; margin: 0 0 10pt; }
  h2 { font-size: 13pt; margin: 20pt 0 6pt; break-after: avoid; }
  h3 { break-after: avoid; }
  p, li { orphans: 3; widows: 3; }
  .warning, .caption, figure, tr, pre, .summary li { break-inside: avoid; }
  .summary { box-decoration-break: clone; -webkit-box-decoration-break: clone; }
  figure img { max-height: 215mm; object-fit: contain; object-position: left; }
  figcaption, .caption { font-size: 8.5pt; }
  .caption { break-after: avoid; }
  .summary ul.answer, .summary { font-size: 9.5pt; padding: 6pt 10pt; }
  .table, pre { overflow: visible; }
  .table { margin-right: 0; }
  pre { white-space: pre-wrap; overflow-wrap: anywhere; }
  table.report td.name, table.report td.number { white-space: normal; }
  table.report td.name { min-width: 22mm; }
  table.report td.number { min-width: 7mm; }
  table.report { font-size: 7.5pt; min-width: 0; max-width: 100%; }
  table.report th, table.report td { padding: 2pt 3pt; }
  table.report .small { font-size: 7pt; }
  table.report thead { display: table-header-group; }
  table.report tr:has(th.group) { break-after: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; }
  summary { list-style: none; color: inherit; font-weight: 600; break-after: avoid; }
  summary::-webkit-details-marker { display: none; }
  a { color: inherit; }
  a[href^="http"]::after { content: " (" attr(href) ")"; overflow-wrap: anywhere; }
}
"""
"""On paper, collapsed parts are open, tables break between rows and repeat their heads, and links show their addresses."""


def page(notebook: NotebookNode, *, title: str) -> str:
    """Return the notebook's text and outputs as an HTML page; its code is only in the notebook."""
    from nbconvert.exporters.html import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        exclude_input=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    body, _ = exporter.from_notebook_node(notebook)
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{_STYLE}{_PRINT_STYLE}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
