"""What `midstudy recommend` prints: the ranking, its groups, what it costs, and what it does not know."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from midstudy.run.proxy import Proxy
    from midstudy.run.recommend import Candidate, Recommendation

_NEAREST_SHOWN = 3
_BEGINNING = 72


def as_text(found: Recommendation) -> str:
    """Return the ranking as a table in bits per byte, groups, nearest documents, and notes."""
    lines = [
        f"target {found.target.name}: {found.dev_documents:,} dev documents, {found.dev_bytes:,} bytes, "
        f"{found.target_bits_per_byte:.3f} bits per byte with {found.general.name} and the target's train split",
        f"gain: bits per byte saved on them with {100 * found.share:g} % of each candidate, ± 95 %; further "
        f"{found.general.name} text saves {_number(found.placebo_gain)}",
        "",
    ]
    header = ["group", "candidate", "gain", "best", f"cost {found.general.name}", "PA", "JS", "copies", "documents"]
    rows = [header, *(_row(one) for one in found.candidates)]
    if any(one.expected for one in found.candidates):
        rows = [[*row[:3], cell, *row[3:]] for row, cell in zip(rows, _expected_cells(found), strict=True)]
        header = rows[0]
    if found.proxy is not None:
        rows = [[*row, *cells] for row, cells in zip(rows, _proxy_cells(found, found.proxy), strict=True)]
        header = rows[0]
    widths = [max(len(row[place]) for row in rows) for place in range(len(header))]
    for row in rows:
        cells = (text.ljust(width) if place == 1 else text.rjust(width)
                 for place, (text, width) in enumerate(zip(row, widths, strict=True)))  # fmt: skip
        lines.append("  ".join(cells))
    lines += [
        "",
        "group: candidates of one group cannot be distinguished from its first. best: probability of the largest gain.",
        "PA, JS: advantage over general text in the paper's combined similarity and in 1 / (1 + JSD), over hashed words.",
        *(_proxy_lines(found.proxy) if found.proxy is not None else []),
        *_answer(found),
        f"expected improvement: {found.expected_improvement}",
        f"judged: {found.judged}",
    ]
    if found.deciding_command:
        lines += ["to decide within the first group of several:", f"  {found.deciding_command}"]
    lines.append("")
    for one in found.candidates:
        lines.append(f"{one.text.name}, nearest to {found.target.name}:")
        lines += [f"  {near.where}  {near.beginning[:_BEGINNING]}" for near in one.scan.nearest[:_NEAREST_SHOWN]]
    lines += [f"note: {note}" for note in found.notes]
    return "\n".join(line.rstrip() for line in lines)


def write_plot(found: Recommendation, path: Path) -> None:
    """Draw the gains with intervals into a file."""
    from midstudy.report.figures.recommendation import GainRow, recommendation_figure
    from midstudy.report.figures.style import PNG_DPI

    rows = [
        GainRow(one.text.name, one.ranked.gain, one.ranked.low, one.ranked.high, None if one.set_aside else one.ranked.group)
        for one in found.candidates
    ]
    figure = recommendation_figure(rows, placebo_gain=found.placebo_gain, target=found.target.name, share=found.share)
    figure.savefig(path, dpi=PNG_DPI)


def _answer(found: Recommendation) -> list[str]:
    first = [one for one in found.ranked if one.ranked.group == 1]
    if not first:
        return ["no recommendation: no candidate could be ranked"]
    if all(one.ranked.over_placebo_low <= 0 for one in first):
        return ["no recommendation: the first group gains nothing over more general text"]
    names = ", ".join(one.text.name for one in first)
    if len(first) > 1:
        return [f"no recommendation between {names}"]
    return [f"recommended: {names}, as a hypothesis: no training stands behind it"]


def _row(one: Candidate) -> list[str]:
    ranked, scan = one.ranked, one.scan
    half_width = max(ranked.high - ranked.gain, ranked.gain - ranked.low)
    return [
        "–" if one.set_aside else str(ranked.group),
        one.text.name,
        f"{_number(ranked.gain)} ±{half_width:.4f}",
        "–" if one.set_aside else f"{100 * ranked.probability_best:.0f} %",
        _number(one.general_cost),
        f"{one.advantage.combined:+.3f}".replace("-", "−"),
        f"{one.advantage.js:+.3f}".replace("-", "−"),
        f"{scan.exact_copies:,} + {scan.near_copies:,}",
        f"{one.num_documents:,}",
    ]


def _expected_cells(found: Recommendation) -> list[str]:
    cells = ["expected"]
    for one in found.candidates:
        if (expected := one.expected) is None:
            cells.append("–")
            continue
        low, high = (f"{100 * end:+.1f}".replace("-", "−") for end in (expected.low, expected.high))
        cells.append(f"{100 * expected.improvement:+.1f} % [{low}, {high}]".replace("-", "−"))
    return cells


def _proxy_cells(found: Recommendation, proxy: Proxy) -> list[list[str]]:
    cells = [["branch", "weight"]]
    for one in found.candidates:
        score = proxy.scores[one.text.name]
        gain = f"{100 * score.gain:+.2f} % ±{100 * (score.high - score.gain):.2f}".replace("-", "−")
        cells.append([gain, f"{score.weight:.2f}"])
    return cells


def _proxy_lines(proxy: Proxy) -> list[str]:
    return [
        f"branch: share of the target's loss that {proxy.num_steps:,} steps of a small model with the candidate save over "
        f"as many on general text, ± 95 % over {proxy.num_items} dev items; one seed.",
        "weight: of its expert, a small model on it alone, in the mixture of experts with the lowest loss "
        f"({proxy.mixture_loss_nats:.3f} nats a token; best expert {proxy.best_expert_loss_nats:.3f}; weight of general "
        f"text {proxy.general_weight:.2f}).",
        f"small models rank: {', '.join(proxy.order)}; how well they rank has not been judged. Study: {proxy.study}",
    ]


def _number(value: float) -> str:
    return f"{value:+.4f}".replace("-", "−")
