"""The four prompts of the walk-through, with the replies of base, midtraining and SFT as they came out."""

from __future__ import annotations

from midstudy.data.builtin.abilities import prompts as source
from midstudy.report.html import Html, Text, code, lines, small, table
from midstudy.report.numbers import ABSENT
from midstudy.report.report import Report
from midstudy.studies.nanochat.chain import rows_of
from midstudy.studies.nanochat.text import PROMPTS

STATES = ("base", "base → mid", "base → mid → SFT")
MOST_CHARS, LAST_CHARS = 160, 50

SHOWN_AFTER_BASE = {
    "Hello! How are you?": "I are you",
    "What is the capital of France?": "Paris France city",
    "If I have 5 apples and buy 3 more, how many do I have?": "8 apples total",
    "How many 'r' are in 'strawberry'?": "2",
}
"""What the walk-through shows after the base, section 5.4."""


def prompts(report: Report) -> Html:
    """Show the prompts with what the source says and what came out, at the first seed; nothing before it is generated."""
    answers = {state: _answers(report, state) for state in STATES}
    if not any(answers.values()):
        return Html("")
    asked = {pair[1]: pair[0] for pair in source.PROMPTS}
    known = {reference for found in answers.values() for reference in found}
    references = [*(one for one in asked if one in known), *sorted(known - asked.keys())]
    rows = []
    for reference in references:
        prompt = asked.get(reference, "")
        said = lines([f"base: {SHOWN_AFTER_BASE.get(prompt, ABSENT)}", f"mid: {reference}"])
        rows.append([prompt or ABSENT, said, *(answers[state].get(reference, ABSENT) for state in STATES)])
    seed = rows_of(report, "base")[str(report.seed)].iloc[0]
    return table(
        ["prompt", "the walk-through shows", *STATES],
        rows,
        num_text_columns=5,
        caption=f"Greedy, with the calculator, seed {seed}; the prompts were fixed before. The middle of a reply of more "
        f"than {MOST_CHARS} characters is left out here; whole ones are in the evaluation's transcripts in the store.",
    )


def _answers(report: Report, state: str) -> dict[str, Text]:
    """Return the replies of the first seed at a state, by reference."""
    table_of, rows = report.tables.transcripts, rows_of(report, state)
    if table_of is None or rows.empty:
        return {}
    found = table_of[(table_of["arm"] == rows.index[0]) & (table_of["column"] == PROMPTS)]
    return {str(line["reference"]): _reply(line["text"], bool(line["well_formed"])) for _, line in found.iterrows()}


def _reply(text: str, is_well_formed: bool) -> Text:
    words = " ".join(text.split())
    cut = words if len(words) <= MOST_CHARS else f"{words[: MOST_CHARS - LAST_CHARS]} … {words[-LAST_CHARS:]}"
    return lines(
        [code(cut) if cut else small("an empty reply"), *([] if is_well_formed else [small("does not end its turn")])]
    )
