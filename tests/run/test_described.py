"""What a plan says about its claims: which the grid cannot decide, and an error for those that no estimator can judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders.analysis_tables import bridging_tables
from builders.places import TESTS

from midstudy.analysis.claims import estimates
from midstudy.analysis.power import claims_power
from midstudy.analysis.rehearsal import rehearse
from midstudy.cli.main import main
from midstudy.recipe.study import Claim
from midstudy.run.described import power_lines

EXPERIMENT = TESTS / "recorded" / "ids_at_bce8467" / "bridging_micro.py"


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["plan", str(EXPERIMENT), "--store", str(tmp_path_factory.mktemp("empty") / "store"), "--json"]) == 0
    return dict(json.loads(printed.getvalue()))


def test_the_first_grid_left_the_papers_ablations_to_a_single_trunk_seed(facts: dict[str, Any]) -> None:
    undecidable = [one["text"] for one in facts["power"] if one["can_be_decided"] is False]
    assert undecidable == [
        *(f"{mix} mixed into general text beats {mix} alone: {kind} loss after {task} SFT" for kind in ("task", "general")
          for mix, task in (("code", "pycode"), ("math", "word_problems"))),
        *(f"an earlier start of code data lowers {kind} loss more (it also means more code tokens at higher rates)"
          for kind in ("pycode", "general")),
    ]  # fmt: skip
    assert {one["num_seeds"] for one in facts["power"] if one["can_be_decided"] is False} == {1}
    assert {one["num_seeds"] for one in facts["power"] if one["can_be_decided"]} == {3}
    first = facts["power"][0]
    assert (first["detectable_sd"], first["seeds_needed"]) == (pytest.approx(3.26, abs=0.01), None)


def test_a_plan_prints_the_power_of_its_claims(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["plan", str(EXPERIMENT), "--store", str(tmp_path / "store")]) == 0
    printed = capsys.readouterr().out
    assert "  power    claims 9, 10, 11, 12, 13 and 14 have one trunk seed and cannot be decided on this grid\n" in printed
    assert "claims 15, 16, 17 and 18 are not decided over trunk seeds\n" in printed
    assert "claim 1 (code midtraining lowers pycode loss): 3 trunk seeds detect 3.3 sd (8.0 sd, m = 6)\n" in printed
    assert "claim 5 (mismatched mixes change pycode loss by less than 2 %): 3 trunk seeds show no change within" in printed


def test_a_claim_on_one_cell_that_selects_several_is_an_error_of_the_plan(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    broken = tmp_path / "broken.py"
    text = EXPERIMENT.read_text("utf-8")
    wide = '__import__("dataclasses").replace(claims_for(comparisons)[0], text="all help", arms={"task": "pycode"})'
    broken.write_text(text.replace("claims=claims_for(comparisons)", f"claims=[{wide}]"), "utf-8")
    assert main(["plan", str(broken), "--store", str(tmp_path / "store")]) == 2
    message = capsys.readouterr().err
    assert "study.claims[0], 'all help': arms: expected one cell with {'task': 'pycode'}, got 5: size nano, mix" in message
    assert "mix hqweb" in message


def claim(text: str, **arms: Any) -> Claim:
    arms = {"mix": "code", "task": "pycode"} | arms
    options = {"scale": "difference"}
    return Claim(
        text=text, source="a", estimator="paired_effect", comparison="main", column="sft_loss", arms=arms, options=options
    )


def lines_of(*claims: Claim, is_measured: bool = False, looks: tuple[int, ...] = (), **study: Any) -> str:
    tables = bridging_tables(claims=claims, **study)
    power = claims_power(claims, rehearse(tables.manifest), estimates(tables) if is_measured else None, looks=looks)
    return "\n".join(power_lines(power, seeds=tables.manifest.seeds))


def test_finished_seeds_turn_effects_in_deviations_into_seeds() -> None:
    shown = lines_of(claim("it helps"), is_measured=True)
    assert "claim 1 (it helps): 3 trunk seeds, needs 3 (3, m = 1) at sd 0.085 nats" in shown
    assert shown.startswith("  power    with 80 % power"), "without a claim that cannot be decided there are no others"


def test_planned_looks_are_named_and_the_seeds_needed_are_those_of_a_look() -> None:
    shown = lines_of(claim("it helps"), is_measured=True, looks=(3, 6, 9))
    assert "both levels are spent over looks, the last at 9 trunk seeds" in shown
    assert "3 trunk seeds, needs 6 (6, m = 1)" in shown, "three are too few at what the first look is given"
    assert "no planned look decides it at sd 0.085 nats" in lines_of(claim("it helps"), is_measured=True, looks=(2,))


def test_a_single_claim_is_singular() -> None:
    shown = lines_of(claim("it helps"), trunk_seeds=(0,))
    assert shown == "  power    claim 1 has one trunk seed and cannot be decided on this grid"


def test_a_study_without_claims_has_no_section() -> None:
    assert lines_of() == ""
