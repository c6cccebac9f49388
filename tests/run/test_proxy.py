"""`--proxy`: the study of small models fits its duration, gives every candidate the same dose, and is read back exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow
import pytest
from builders.languages import language_documents, write_documents
from builders.small_study import plan_in
from pyarrow import parquet

from midstudy.data.named_text import NamedText, named_text
from midstudy.plan.manifest import manifest_of
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.manifest import Manifest
from midstudy.run import proxy as rules
from midstudy.run.proxy import FEWEST_STEPS, MOST_STEPS, fitted_plan, paired_gain, proxy_name, read_proxy
from midstudy.run.proxy_study import BRANCH, COLUMN, EXPERT, TRUNK_LENGTHS, proxy_study
from midstudy.store.store import Store

NAMES = ("left", "right")


@pytest.fixture
def texts(tmp_path: Path) -> dict[str, Any]:
    for name, language in (("general", 1), ("left", 2), ("right", 3)):
        write_documents(tmp_path / name / "train.jsonl", language_documents(language, number=50, seed=language))
    for split, seed in (("train", 10), ("dev", 11), ("test", 12)):
        write_documents(tmp_path / "target" / f"{split}.jsonl", language_documents(2, number=20, seed=seed))
    found = {name: named_text(f"{name}={tmp_path}", where="test") for name in ("target", "general", *NAMES)}
    return {"target": found["target"], "general": found["general"], "candidates": [found[name] for name in NAMES]}


def manifest(store: Store, texts: dict[str, Any]) -> Manifest:
    plan = plan_in(store, proxy_study(**texts, share=0.25, smallest_bytes=9_000, num_steps=40, name="proxy_x"))
    return manifest_of(plan, command="")


def fitted(seconds_of: Callable[[int], float], duration_s: float) -> int:
    """The steps that are chosen where a study takes so many seconds."""
    plan: Any = fitted_plan(
        lambda num_steps: SimpleNamespace(num_steps=num_steps),  # type: ignore[arg-type, return-value]
        lambda study: (study, seconds_of(study.num_steps)),  # type: ignore[arg-type, return-value, attr-defined]
        duration_s,
    )
    return int(plan.num_steps)


@pytest.mark.parametrize("duration_s", [60.0, 600.0, 3_600.0])
def test_the_longest_study_within_the_duration_is_planned(duration_s: float) -> None:
    found = fitted(lambda steps: 30 + 0.5 * steps, duration_s)
    assert found == int((duration_s - 30) / 0.5)


def test_a_forecast_that_is_no_line_is_never_exceeded() -> None:
    def seconds(steps: int) -> float:
        return 10 + 0.01 * steps**1.5

    found = fitted(seconds, 300)
    assert seconds(found) <= 300
    assert seconds(2 * found) > 300
    assert fitted(lambda steps: 1.0, 60) == MOST_STEPS


def test_a_duration_that_is_too_short_is_an_error_that_names_the_least() -> None:
    with pytest.raises(RecipeError, match=r"--proxy: expected at least 40 s .*, got 39 s"):
        fitted(lambda steps: 40 + 0.5 * (steps - FEWEST_STEPS), 39)
    assert fitted(lambda steps: 40 + 0.5 * (steps - FEWEST_STEPS), 40) == FEWEST_STEPS


def test_branches_have_one_dose_and_leave_one_trunk(tmp_path: Path, texts: dict[str, Any]) -> None:
    found = manifest(Store.open(tmp_path / "store", create=True), texts)
    arms = {(arm.factors["part"], arm.factors["corpus"]): arm for arm in found.arms}
    assert set(arms) == {(part, name) for part in (BRANCH, EXPERT) for name in ("general", *NAMES)}
    doses = [arms[BRANCH, name].dose[name] for name in NAMES]
    assert doses[0] == doses[1] is not None
    for (part, name), arm in arms.items():
        last = arm.phases[-1]
        mixed = {"general": 0.75, name: 0.25} if part == BRANCH and name != "general" else {name: 1.0}
        assert dict(last.shares) == pytest.approx(mixed)
        assert arm.num_steps == (TRUNK_LENGTHS + 1) * 40
    trained = sum(stage.num_steps for stage in found.stages.values())
    assert trained == (TRUNK_LENGTHS + len(arms)) * 40  # the trunk is trained once


def test_the_target_is_read_on_dev_alone(tmp_path: Path, texts: dict[str, Any]) -> None:
    found = manifest(Store.open(tmp_path / "store", create=True), texts)
    assert {found.stages[one].split for one in found.evaluations} == {"dev"}
    assert all(not arm.items for arm in found.arms)


def test_the_name_follows_the_text_the_share_and_the_duration(tmp_path: Path, texts: dict[str, Any]) -> None:
    name = proxy_name(**texts, share=0.2, duration_s=60)
    assert name == proxy_name(**texts, share=0.2, duration_s=60)
    write_documents(tmp_path / "left" / "train.jsonl", language_documents(2, number=51, seed=2))
    changed: list[NamedText] = [named_text(f"{one}={tmp_path}", where="test") for one in NAMES]
    others = [
        proxy_name(**texts, share=0.2, duration_s=61),
        proxy_name(**texts, share=0.3, duration_s=60),
        proxy_name(**{**texts, "candidates": changed}, share=0.2, duration_s=60),
    ]
    assert len({name, *others}) == 4


def test_planted_losses_of_items_are_read_as_gains_and_weights(
    tmp_path: Path, texts: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store.open(tmp_path / "store", create=True)
    found = manifest(store, texts)
    num_tokens = np.array([10.0, 20.0, 30.0])
    per_token = {
        (BRANCH, "general"): 4.0, (BRANCH, "left"): 3.0, (BRANCH, "right"): 4.4,
        (EXPERT, "general"): 5.0, (EXPERT, "left"): 2.0, (EXPERT, "right"): 6.0,
    }  # fmt: skip
    for arm in found.arms:
        (stage,) = arm.measures[COLUMN]
        folder = tmp_path / "items" / stage
        folder.mkdir(parents=True)
        nats = per_token[str(arm.factors["part"]), str(arm.factors["corpus"])] * num_tokens
        parquet.write_table(pyarrow.table({"nats": nats, "target_tokens": num_tokens}), folder / rules.ITEMS_FILE)
    monkeypatch.setattr(Store, "record", lambda self, stage: None)
    monkeypatch.setattr(Store, "published_folder", lambda self, stage: tmp_path / "items" / stage)
    read = read_proxy(store, found)
    assert read.order == ["left", "right"]
    assert read.scores["left"].gain == pytest.approx(0.25)
    assert read.scores["right"].gain == pytest.approx(-0.1)
    assert read.scores["left"].low == pytest.approx(0.25)  # items agree, so the interval has no width
    assert read.scores["left"].weight > 0.999
    assert read.general_weight < 1e-3
    assert (read.num_steps, read.num_items) == (40, 3)
    assert read.best_expert_loss_nats == pytest.approx(2.0)
    assert read.mixture_loss_nats == pytest.approx(2.0, abs=1e-4)


def test_the_interval_of_a_gain_covers_the_truth_over_draws_of_items() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        reference = rng.gamma(5.0, 20.0, 60)
        gain, half_width = paired_gain(reference, 0.98 * reference + rng.normal(0, 3.0, 60))
        covered += abs(gain - 0.02) <= half_width
    assert 0.90 < covered / 400 < 0.98
    assert math.isinf(paired_gain(np.array([1.0]), np.array([0.5]))[1])
