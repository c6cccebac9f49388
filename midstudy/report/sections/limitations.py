"""Limitations of a study, made from its facts: what it cannot decide, did not repeat, or did not vary."""

from __future__ import annotations

from collections.abc import Iterable

from midstudy.report.cells import cell_factors, readable
from midstudy.report.html import Html, Text, bullets
from midstudy.report.numbers import tokens
from midstudy.report.report import Report
from midstudy.report.sections.power import power_of

_MOST_NAMED = 8
"""Claims in one sentence; of more, the table of claims is easier to read."""


def limitations(report: Report, more: Iterable[Text] = ()) -> Html:
    """Show a bullet for each limitation that the study's facts state, then those in `more`; nothing if there are none."""
    decided = [*_undecidable(report), *_narrow(report), *_one_seed(report)]
    found = [*decided, *_one_model(report), *_edges(report), *_samples(report), *more]
    return bullets(found) if found else Html("")


def _undecidable(report: Report) -> list[str]:
    powers = power_of(report)
    sentences = []
    few = [readable(one.text) for one in powers if one.can_be_decided is False]
    if few:
        sentences.append(
            f"{len(few)} of {len(powers)} claims cannot be decided on this grid, which repeats their arms with fewer than "
            f"two common seeds: {'; '.join(few)}."
        )
    if powers:
        undecided = report.judged.loc[report.judged["verdict"] == "inconclusive", "text"].map(readable)
        if others := [text for text in undecided if text not in few]:
            named = f": {'; '.join(others)}" if len(others) <= _MOST_NAMED else ""
            sentences.append(
                f"{len(others)} of {len(powers)} claims are undecided for other reasons, which the table of claims gives"
                f"{named}."
            )
    return sentences


def _narrow(report: Report) -> list[str]:
    """Return a sentence for each reason why verdicts are about less than the words of their claims."""
    judged = report.judged
    decided = judged[(judged["verdict"] != "inconclusive") & (judged["scope"] != "")]
    sentences = []
    for scope, rows in decided.groupby("scope", sort=False):
        quoted = ", ".join(f"'{readable(text)}'" for text in rows["text"])
        sentences.append(
            f"The verdict{'s' if len(rows) > 1 else ''} on {quoted} hold{'' if len(rows) > 1 else 's'} {scope}."
        )
    return sentences


def _one_seed(report: Report) -> list[str]:
    if not report.seed or not report.manifest.arms:
        return []
    cells = report.tables.arms.groupby(cell_factors(report.manifest), sort=False)[report.seed].nunique()
    few = int((cells == 1).sum())
    return [f"{few} of {len(cells)} cells have one {readable(report.seed)} and no interval."] if few else []


def _one_model(report: Report) -> list[str]:
    models = {report.manifest.stages[arm.state].model for arm in report.manifest.arms} - {""}
    if len(models) != 1:
        return []
    return [f"All runs are of one model, {models.pop()}: nothing here says how an effect changes with size."]


def _edges(report: Report) -> list[str]:
    """Return a sentence for each choice whose candidates were best at an end of what was tried."""
    decisions = report.study.reproduction["decisions"]
    sentences = []
    for name in dict.fromkeys(made["name"] for made in decisions):
        of_name = [made for made in decisions if made["name"] == name]
        for end, which in (("lowest", min), ("highest", max)):
            at_end = [made for made in of_name if made["chosen"] == which(option["value"] for option in made["tried"])]
            if at_end:
                values = ", ".join(dict.fromkeys(f"{made['chosen']:g}" for made in at_end))
                sentences.append(
                    f"{len(at_end)} of {len(of_name)} choices of {readable(name)} took the {end} value that was tried "
                    f"({values}): the best one may lie beyond it."
                )
    return sentences


def _samples(report: Report) -> list[str]:
    facts = report.tables.data
    if facts is None or "sampled_tokens" not in facts or (counted := facts.dropna(subset=["sampled_tokens"])).empty:
        return []
    least, most = (counted.loc[getattr(counted["sampled_tokens"], end)()] for end in ("idxmin", "idxmax"))
    if most["sampled_tokens"] < 1.1 * least["sampled_tokens"]:
        return []
    return [
        f"Similarities are of samples of unequal size, from {tokens(least['sampled_tokens'])} tokens "
        f"({readable(least['data'])}) to {tokens(most['sampled_tokens'])} ({readable(most['data'])}); Jaccard similarity "
        "grows with the sample."
    ]
