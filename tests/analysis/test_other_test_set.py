"""Effects for another test set from the table of items: paired by seed and item, of all items that both arms have."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from builders.analysis_tables import tables_of
from builders.report_study import write_study

from midstudy.analysis.effects import effects
from midstudy.analysis.other_items import crossed_interval
from midstudy.analysis.other_test_set import other_test_set
from midstudy.analysis.tables import Tables
from midstudy.report.report import Report
from midstudy.report.sections.other_test_set import other_test_set as section

NUM_ITEMS = 12


def study(*, inner: tuple[int, ...] = (10,), item_sd: float = 0.05) -> Tables:
    """Two arms on four trunk seeds; the new one is lower by 0.2 nats per token, 0.02 more per seed, and by item."""
    rng = np.random.default_rng(1)
    tokens = rng.integers(3, 30, size=NUM_ITEMS)
    of_items = rng.normal(scale=item_sd, size=NUM_ITEMS)
    rows: list[dict[str, Any]] = []
    items = []
    for mix in ("old", "new"):
        for trunk in range(4):
            for sft in inner:
                per_token = 3.0 + 0.3 * trunk + 0.01 * sft + rng.normal(scale=0.01, size=NUM_ITEMS)
                if mix == "new":
                    per_token -= 0.2 + 0.02 * trunk + of_items
                nats = per_token * tokens
                labels = {"mix": mix, "trunk": trunk, "sft": sft}
                items.append(
                    pd.DataFrame({"item": range(NUM_ITEMS), "nats": nats, "target_tokens": tokens}).assign(
                        arm=len(rows), column="loss", **labels
                    )
                )
                rows.append({**labels, "loss": nats.sum() / tokens.sum()})
    entry = {"name": "main", "arms": {"mix": "new"}, "references": {"mix": "old"}, "columns": ("loss",)}
    tables = tables_of(rows, [entry], columns={"loss": "lower"}, seeds=("trunk", "sft"))
    return replace(tables, items=pd.concat(items, ignore_index=True))


def found(tables: Tables) -> pd.Series:
    (row,) = (row for _, row in other_test_set(tables, tables.manifest.comparison("main"), "loss").iterrows())
    return row


def test_the_effect_and_its_interval_over_seeds_are_those_of_the_paired_test() -> None:
    tables = study()
    row = found(tables)
    plain = effects(tables, tables.manifest.comparison("main"), "loss").table.iloc[0]
    assert row["difference"] == pytest.approx(plain["difference"], abs=1e-12)
    assert row["ci_low":"ci_high"].tolist() == plain[["ci_low", "ci_high"]].tolist()
    assert (row["num_seeds"], row["num_items"]) == (4, NUM_ITEMS)


def test_the_interval_over_seeds_and_items_is_that_of_the_differences_of_each_seed_and_item() -> None:
    tables = study()
    assert tables.items is not None
    nats = tables.items.pivot(index=["mix", "trunk"], columns="item", values="nats")
    tokens = tables.items.pivot(index=["mix", "trunk"], columns="item", values="target_tokens").loc["new"]
    expected = crossed_interval(nats.loc["old"] - nats.loc["new"], tokens, range(NUM_ITEMS), random_seed=2007)
    row = found(tables)
    assert (row["items_ci_low"], row["items_ci_high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))
    assert row["items_error"] == pytest.approx(expected.items_error)


def test_items_that_differ_widen_the_interval() -> None:
    alike, unlike = (found(study(item_sd=sd)) for sd in (0.0, 0.5))
    assert unlike["items_ci_high"] - unlike["items_ci_low"] > 2 * (unlike["ci_high"] - unlike["ci_low"])
    assert alike["items_error"] < unlike["items_error"] / 10


def test_inner_seeds_are_added_up_within_a_seed() -> None:
    row = found(study(inner=(10, 11, 12)))
    assert row["num_seeds"] == 4
    assert row["difference"] == pytest.approx(row["ci_low"] / 2 + row["ci_high"] / 2)


def test_only_common_items_of_seeds_finished_in_both_arms_count() -> None:
    tables = study()
    assert tables.items is not None
    is_lost = ((tables.items["arm"] == 5) & (tables.items["item"] < 2)) | (tables.items["arm"] == 0)
    row = found(replace(tables, items=tables.items[~is_lost]))
    assert (row["num_seeds"], row["num_items"]) == (3, NUM_ITEMS - 2)


def test_an_item_with_other_target_tokens_in_the_reference_is_rejected() -> None:
    tables = study()
    assert tables.items is not None
    items = tables.items.copy()
    items.loc[(items["arm"] == 4) & (items["item"] == 3), "target_tokens"] += 1
    with pytest.raises(ValueError, match=r"mix new, .*item 3: expected \d+ target_tokens as in its reference, got"):
        found(replace(tables, items=items))


def test_bits_per_byte_are_differences_of_bits() -> None:
    tables = study()
    assert tables.items is not None
    column = replace(tables.manifest.columns["loss"], metric="bits_per_byte")
    items = tables.items.rename(columns={"nats": "text_nats", "target_tokens": "bytes"})
    arms = tables.arms.assign(loss=tables.arms["loss"] / math.log(2))
    of_bits = replace(tables, manifest=replace(tables.manifest, columns={"loss": column}), items=items, arms=arms)
    assert found(of_bits)["difference"] == pytest.approx(found(tables)["difference"] / math.log(2))


def of_shares(tables: Tables) -> Tables:
    """Return the same study with items that are right or wrong: those whose nats are below a level."""
    assert tables.items is not None
    right = (tables.items["nats"] / tables.items["target_tokens"] < 3.2).astype(float)
    items = tables.items.assign(right=right)[["arm", "item", "mix", "trunk", "sft", "column", "right"]]
    column = replace(tables.manifest.columns["loss"], metric="accuracy", better="higher")
    arms = tables.arms.assign(loss=items.groupby("arm")["right"].mean())
    return replace(tables, manifest=replace(tables.manifest, columns={"loss": column}), items=items, arms=arms)


def test_a_higher_share_is_better_and_every_item_counts_the_same() -> None:
    tables = of_shares(study())
    assert tables.items is not None
    right = tables.items.pivot(index=["mix", "trunk"], columns="item", values="right")
    differences = right.loc["new"] - right.loc["old"]
    expected = crossed_interval(differences, np.ones(differences.shape), range(NUM_ITEMS), random_seed=2007)
    row = found(tables)
    assert row["difference"] == pytest.approx(differences.to_numpy().mean())
    assert row["difference"] > 0.1
    assert (row["items_ci_low"], row["items_ci_high"]) == (pytest.approx(expected.low), pytest.approx(expected.high))


def test_a_seed_without_finite_values_is_left_out() -> None:
    tables = of_shares(study())
    assert tables.items is not None
    items = tables.items.assign(right=tables.items["right"].where(tables.items["arm"] != 5, math.nan))
    row = found(replace(tables, items=items))
    assert (row["num_seeds"], row["num_items"]) == (3, NUM_ITEMS)


def test_without_items_there_are_no_rows() -> None:
    tables = study()
    entry = tables.manifest.comparison("main")
    assert other_test_set(replace(tables, items=None), entry, "loss").empty
    other = replace(tables.manifest, columns={"loss": replace(tables.manifest.columns["loss"], metric="accuracy")})
    assert other_test_set(replace(tables, manifest=other), entry, "loss").empty


def test_the_section_has_both_intervals_and_says_what_clusters_items(tmp_path: Path) -> None:
    tables = study()
    text = re.sub(r"<[^>]+>", " ", section(Report.of(write_study(tmp_path, tables))).markup)
    assert f"{found(tables)['items_ci_low']:.3f}" in text
    assert f"{found(tables)['ci_low']:.3f}" in text
    assert "every item is a cluster of its own" in text
    assert not section(Report.of(write_study(tmp_path / "none", replace(tables, items=None)))).markup
