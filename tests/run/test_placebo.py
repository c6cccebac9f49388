"""A study with a placebo, from text to report: the flagship's runs on tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.small_study import make_study, write_text

from midstudy.analysis.tables import read_tables
from midstudy.data.data_args import DataChoice
from midstudy.recipe import Comparison, Study, placebo, where
from midstudy.run.study import write_report
from midstudy.store.store import Store
from midstudy.store.study_manifest import load
from midstudy.studies.bridging.scale import Scale, mixes_of


def test_the_flagships_runs_blend_general_text_with_a_placebo(tmp_path: Path) -> None:
    """The flagship's curricula on tiny models, from text to table: code and the placebo, mixed in alike, on the rest."""
    write_text(tmp_path / "text")
    data = DataChoice([str(tmp_path / "text")])
    general, mixed_in = placebo(data.corpus("general", max_bytes=None), share=0.2)
    code, task = data.corpus("code", max_bytes=None), data.task("code_task", folder="sft/code", max_items=None)
    steps: dict[str, Any] = {"total_steps": 10, "sft_steps": 3, "num_sequences": 4, "sft_num_sequences": 4}
    scale = Scale(seq_len=32, vocab_size=300, tokenizer_bytes=40_000, test_items=16, **steps)
    tokenizer = scale.tokenizer([general, mixed_in, code])
    trunk = scale.pretrain(general, seed=0, tokenizer=tokenizer)
    runs = [trunk, *(scale.midtrain(trunk, {corpus: 0.5}, start_step=4) for corpus in (code, mixed_in))]
    arms = [scale.finetune(run, task, seed=7) for run in runs]
    against = Comparison(
        name="against_placebo",
        arms=where(arms, mix="code"),
        references=where(arms, mix="placebo"),
        columns=("sft_loss", "general_loss"),
        match=("size", "task", "weight", "start_step"),
    )
    study = Study(
        name="placebo",
        question="Is it the code?",
        arms=arms,
        comparisons=[against],
        counts=scale.counts([general, mixed_in, code, task], tokenizer),
        mixes=mixes_of(arms),
    )
    store = Store.open(tmp_path / "store", create=True)
    plan = make_study(store, study)
    trained = [stage for stage in plan.stages.values() if stage.num_steps]
    assert sum(stage.num_steps for stage in trained) == 10 + 2 * 6 + 3 * 3  # one trunk, two branches, three fine-tunings
    page = write_report(store, load(store, "placebo")).read_text("utf-8")
    table = read_tables(store.paths.study("placebo")).arms.set_index("mix")
    assert np.isfinite(table[["sft_loss", "general_loss"]].to_numpy()).all()
    assert table.loc["placebo", "tokens:placebo"] == table.loc["code", "tokens:code"] == 6 * 4 * 32 / 2
    assert table.loc["placebo", "general_loss"] != table.loc["control", "general_loss"]
    (trained_on,) = [stage for stage in plan.stages.values() if stage.kind == "tokenizer"]
    shares = store.record(trained_on.id).metrics["train_bytes_by_corpus"]
    assert shares == pytest.approx(dict.fromkeys(("general", "placebo", "code"), 40_000 / 3), abs=500)  # bytes of a document
    assert "80 % of train by hash, [0, 4/5)" in page
    assert "20 % of train by hash, [4/5, 1)" in page
