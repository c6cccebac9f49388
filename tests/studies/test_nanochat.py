"""nanochat's report and estimators on planted tables: shares, verdicts, what SFT remembers, and the four prompts."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from builders.planned_nanochat import planned_tables
from builders.report_study import write_study

from midstudy.analysis.claims import judge
from midstudy.analysis.share_intervals import wilson_interval
from midstudy.analysis.tables import Tables
from midstudy.recipe import Claim
from midstudy.report.html import Html
from midstudy.report.report import Report
from midstudy.studies.nanochat.estimators import remembered_questions, share_of_items
from midstudy.studies.nanochat.sections import (
    abilities,
    effects,
    first_screen,
    limitations,
    orders,
    prompts,
    questions,
    rewards,
)


def plain(shown: Html) -> str:
    """Return the text of a section without markup."""
    return unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r'src="[^"]+"', "", shown.markup))))


def cells(shown: Html, first: str) -> list[str]:
    """Return the cells of the row that begins with a text."""
    rows = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in shown.markup.split("<tr")]
    (found,) = [row for row in rows if row and plain(Html(row[0])).strip() == first]
    return [plain(Html(cell)).strip() for cell in found]


@pytest.fixture(scope="module")
def usual() -> Tables:
    return planned_tables()


@pytest.fixture(scope="module")
def full() -> Tables:
    return planned_tables("full=True", remembered_bits=0.3)


@pytest.fixture(scope="module")
def report(usual: Tables, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report.of(write_study(tmp_path_factory.mktemp("usual"), usual))


@pytest.fixture(scope="module")
def full_report(full: Tables, tmp_path_factory: pytest.TempPathFactory) -> Report:
    return Report.of(write_study(tmp_path_factory.mktemp("full"), full))


def test_an_ability_has_a_mean_and_each_seed_with_its_interval_at_every_state(report: Report) -> None:
    found = cells(abilities.abilities(report), "words spelt exactly 100 items")
    _, base, direct, mid, tuned, sequential = found
    assert base == "0 % 0 [0, 4] 0 [0, 4] 0 [0, 4]"
    assert direct.startswith("0 %")
    assert mid.startswith("61 % 60 [50, 69] 61 [")
    assert [text.split(" %")[0] for text in (tuned, sequential)] == ["51", "61"]
    low, high = wilson_interval(0.6, 100)
    assert (round(100 * low, 1), round(100 * high, 1)) == (50.2, 69.1)
    assert cells(abilities.abilities(report), "MMLU (control) 100 items chance 25%")
    assert cells(abilities.abilities(report), "letters counted 100 items commonest answer 34 %")


def test_rl_has_a_row_for_each_task_that_it_rewards(full_report: Report, report: Report) -> None:
    arms = full_report.tables.arms
    shown = cells(rewards.rewards(full_report), "letters counted")
    is_after = (arms["rl"] == "counting") & (arms["after"] == "rl")
    assert len(shown) == 7
    assert shown[6] == "34 %", "what always saying the same would reach"
    assert shown[1:3] == ["25 % 25 25 25"] * 2
    drawn = arms[is_after].sort_values("trunk_seed")["counting_pass_at_8"]
    assert shown[5].split(" % ")[1] == " ".join(f"{100 * share:.0f}" for share in drawn)
    assert not rewards.rewards(report).markup


def test_the_first_screen_says_what_each_stage_taught_and_counts_the_verdicts(report: Report) -> None:
    text = plain(first_screen.first_screen(report))
    sentence = (
        "Words spelt exactly: 0 % after the base, 61 % after midtraining, 51 % after SFT on it, 0 % after SFT without it."
    )
    assert sentence in text
    verdicts = report.judged["verdict"].value_counts()
    assert f"{len(report.judged)}: {verdicts.get('yes', 0)} hold, {verdicts.get('no', 0)} do not, " in text


def verdict(tables: Tables, words: str) -> tuple[str, str]:
    judged = judge(tables)
    (row,) = [row for _, row in judged.iterrows() if words in row["text"]]
    return str(row["verdict"]), str(row["ours"])


def test_planted_abilities_get_the_verdicts_that_they_must(usual: Tables) -> None:
    assert verdict(usual, "base cannot spell")[0] == "yes"
    assert verdict(usual, "base cannot reply in the chat format")[0] == "no", "it is 25 %"
    assert verdict(usual, "teaches spelling")[0] == "yes"
    assert verdict(usual, "SFT ends better at spelling")[0] == "yes"
    assert verdict(usual, "lower loss on chat, first in sequence")[0] == "yes"
    assert verdict(usual, "lower loss on choices")[0] != "yes"


def test_no_claim_of_the_default_is_beyond_what_its_seeds_can_decide(report: Report) -> None:
    assert "cannot be decided on this grid" not in plain(limitations.limitations(report))


def of(comparison: str, column: str, **rest: Any) -> Claim:
    return Claim(text="a claim", source="test", estimator="paired_effect", comparison=comparison, column=column, **rest)


def test_a_share_is_tested_against_its_margin_at_every_seed(usual: Tables) -> None:
    """Source: 0.9^100, the probability of no right item of a hundred where a tenth is right."""
    none = share_of_items(usual, of("stages", "spelling", holds="below", margin=0.1))
    assert (none.value, none.num_seeds) == (0.0, None), "the test is over items, not over seeds"
    assert "3 seeds" in none.text
    assert none.p_holds == pytest.approx(0.9**100, rel=1e-6)
    assert none.p_fails == 1.0
    quarter = share_of_items(usual, of("stages", "chat_format", holds="below", margin=0.2))
    at_least = sum(math.comb(100, k) * 0.2**k * 0.8 ** (100 - k) for k in range(25, 101))
    assert quarter.p_fails == pytest.approx(min(1.0, 3 * at_least), rel=1e-6), "the smallest of three seeds, times three"
    arms = usual.arms.copy()
    arms.loc[arms[(arms["after"] == "base") & (arms["trunk_seed"] == 2)].index, "spelling"] = 0.5
    one_seed_can = share_of_items(replace(usual, arms=arms), of("stages", "spelling", holds="below", margin=0.1))
    assert one_seed_can.p_holds == pytest.approx(1.0)
    assert one_seed_can.p_fails < 1e-10
    assert one_seed_can.high == pytest.approx(wilson_interval(0.5, 100)[1])
    with pytest.raises(ValueError, match="holds: expected 'above' or 'below'"):
        share_of_items(usual, of("stages", "spelling", holds="within", margin=0.1))


def test_what_sft_remembers_is_its_gap_less_that_of_sft_on_replies(full: Tables) -> None:
    claim = of("unmasked", "fresh_question_bits", arms={"sft": "unmasked"})
    found = remembered_questions(full, claim)
    assert found.value == pytest.approx(0.3, abs=0.01)
    assert found.low > 0.25
    assert found.num_seeds == 3
    assert verdict(full, "remembers its questions")[0] == "yes"


def test_the_table_of_questions_has_a_row_for_each_sft(full_report: Report, report: Report) -> None:
    shown = questions.questions(full_report)
    for name, gap in (("midtraining", 0.1), ("SFT on replies", 0.1), ("SFT on all tokens", 0.4)):
        assert float(cells(shown, f"{name} (3 seeds)")[3]) == pytest.approx(gap, abs=0.01)
    assert questions.questions(report).markup == "", "the default does not measure them"


def test_the_prompts_are_shown_as_they_came_out_at_the_first_seed(report: Report) -> None:
    shown = prompts.prompts(report)
    _, source, base, mid, tuned = cells(shown, "What is the capital of France?")
    assert "base: Paris France city mid: Paris" in source
    assert "of prompts after base of none with seed 0" in base
    assert "does not end its turn" in base
    assert "after mid of mixed with seed 0" in mid
    assert "does not end" not in mid
    assert "after sft of mixed with seed 0" in tuned
    assert "<b>reply" not in shown.markup, "a reply is text, whatever it spells"
    for prompt in ("Hello! How are you?", "If I have 5 apples and buy 3 more, how many do I have?"):
        assert len(cells(shown, prompt)) == 5


def test_the_order_of_tasks_is_drawn_and_slips_of_the_source_are_listed(report: Report) -> None:
    assert "order of tasks" in orders.orders(report).markup
    text = plain(limitations.limitations(report))
    assert "not nanochat's" in text
    for slip in ("13 ids beside 12 mask values", "word:w,o,r,d", "182 steps", "11.8, 0.9 and 32.9 %", "800 steps"):
        assert slip in text


def test_a_study_without_any_result_shows_no_table(usual: Tables, tmp_path: Path) -> None:
    columns = [name for name, one in usual.manifest.columns.items() if not one.is_curve]
    nothing = replace(usual, arms=usual.arms.assign(**dict.fromkeys(columns, float("nan"))), items=None, shares=None)
    empty = Report.of(write_study(tmp_path, replace(nothing, transcripts=None, curves=usual.curves.iloc[:0])))
    assert [abilities.abilities(empty).markup, prompts.prompts(empty).markup, orders.orders(empty).markup] == ["", "", ""]
    assert "Claims: 23: 0 hold, 0 do not, 23 undecided." in plain(first_screen.first_screen(empty))
    assert set(empty.judged["verdict"]) == {"inconclusive"}


def test_an_effect_is_in_the_unit_of_its_measure_also_where_the_reference_is_zero(report: Report) -> None:
    shown = effects.effects(report).markup
    (stages,) = [part for part in shown.split("<h3>") if part.startswith("What midtraining and SFT teach a base")]
    of_mid = Html(stages.split("mid, mixed")[1].split("sft, mixed")[0])
    _, seeds, reference, arm, better, ends, p = cells(of_mid, "words spelt exactly")
    # 0.60, 0.61 and 0.62 against 0: mean 0.61, and t(2, 0.975) · 0.01 / √3 = 0.025 around it.
    assert (seeds, float(reference), float(arm), better, ends) == ("3", 0.0, 0.61, "+0.610", "[0.585, 0.635]")
    assert float(p.strip("<")) <= 0.001
