"""What `run` registers and a report looks at is shown by `status` and `report`, and only grows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from builders.seeded_study import publish, seeded_study

from midstudy.cli.main import main
from midstudy.recipe.factors import Value
from midstudy.store.looks import looks_of
from midstudy.store.store import Store


def value(factors: Mapping[str, Value], column: str) -> float:
    return 4.0 + 0.01 * float(factors["trunk_seed"]) ** 2 - 0.1 * float(factors["trunk_seed"]) * (factors["mix"] == "code")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page takes seconds; the tables and the look are what is tested here."""
    monkeypatch.setattr("midstudy.report.notebook.render", lambda folder: folder / "report" / "report.html")


def facts_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_status_and_report_say_that_claims_came_first_and_list_later_changes(
    capsys: pytest.CaptureFixture[str], store: Store, text: Path
) -> None:
    publish(store, seeded_study(text, trunk_seeds=(0, 1)), value)
    assert main(["status", "--store", str(store.root)]) == 0
    assert "  claims   registered before the first result (2" in capsys.readouterr().out
    publish(store, seeded_study(text, trunk_seeds=(0, 1), margin=0.5), value)
    for verb in ("status", "report"):
        registration = facts_of(capsys, verb, "--store", str(store.root))["registration"]
        assert registration["registered"].startswith("registered before the first result")
        assert registration["entries"][1]["changes"] == ["claim changed: code costs general ability: margin 0.0 → 0.5"]
        assert registration["entries"][1]["when"] == "after 16 of 16 results"
    assert main(["report", "--store", str(store.root)]) == 0
    assert "claims: registered before the first result (" in capsys.readouterr().out
    assert main(["status", "--store", str(store.root)]) == 0
    assert (
        "  claims   claim changed: code costs general ability: margin 0.0 → 0.5 (after 16 of 16" in capsys.readouterr().out
    )


def test_report_prints_the_verdict_of_each_claim(capsys: pytest.CaptureFixture[str], store: Store, text: Path) -> None:
    gains = {0: 0.50, 1: 0.51, 2: 0.52}

    def loss(factors: Mapping[str, Value], column: str) -> float:
        return 3.0 - gains[int(factors["trunk_seed"])] * (factors["mix"] == "code")

    publish(store, seeded_study(text, trunk_seeds=(0, 1, 2)), loss)  # both losses fall; the second claim says one rises
    judged = facts_of(capsys, "report", "--store", str(store.root))["claims"]
    assert [(one["text"], one["verdict"]) for one in judged] == [
        ("code helps code", "yes"),
        ("code costs general ability", "no"),
    ]
    assert main(["report", "--store", str(store.root)]) == 0
    printed = capsys.readouterr().out
    assert "verdicts on claims: yes 1, no 1, undecided 0\n  yes: code helps code: +0.510" in printed
    assert "\n  no: code costs general ability: " in printed
    publish(store, seeded_study(text, trunk_seeds=(0,)), loss)
    assert main(["report", "--store", str(store.root)]) == 0
    assert "yes 0, no 0, undecided 2\n  undecided: code helps code: " in capsys.readouterr().out


def test_a_study_that_gets_seeds_keeps_its_registration(store: Store, text: Path) -> None:
    publish(store, seeded_study(text, trunk_seeds=(0, 1)), value)
    before = store.paths.registration("seeded").read_bytes()
    publish(store, seeded_study(text, trunk_seeds=(0, 1, 2)), value)
    assert store.paths.registration("seeded").read_bytes() == before


def test_each_report_with_more_seeds_is_a_look(capsys: pytest.CaptureFixture[str], store: Store, text: Path) -> None:
    for seeds, expected in (((0, 1), [2]), ((0, 1), [2]), ((0, 1, 2), [2, 3])):
        publish(store, seeded_study(text, trunk_seeds=seeds, looks=(2, 3, 6)), value)
        facts_of(capsys, "report", "--store", str(store.root))
        assert [look.num_seeds for look in looks_of(store, "seeded")] == expected
    assert [look.fraction for look in looks_of(store, "seeded")] == pytest.approx([2 / 6, 3 / 6])


def test_status_is_no_look(capsys: pytest.CaptureFixture[str], store: Store, text: Path) -> None:
    publish(store, seeded_study(text, trunk_seeds=(0, 1)), value)
    facts_of(capsys, "status", "--store", str(store.root))
    assert looks_of(store, "seeded") == ()
