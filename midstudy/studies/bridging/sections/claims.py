"""The section on claims, with what a reader should know about a source of the cited numbers."""

from __future__ import annotations

from midstudy.report.html import Html, paragraph
from midstudy.report.report import Report
from midstudy.report.sections.claims import claims as claims_table
from midstudy.studies.bridging.claims import OWN
from midstudy.studies.bridging.paper import NOTE_SLIP


def claims(report: Report) -> Html:
    """Show the claims, followed by a note on the levels of one of the paper's sources if any claim is the paper's."""
    shown = claims_table(report)
    return (
        shown + paragraph(NOTE_SLIP, css="note") if any(claim.source != OWN for claim in report.manifest.claims) else shown
    )
