"""Large sources are planned in parts: priced, balanced, and without any change of an id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders.divided import small_parts, source_of, write_file
from builders.planned import plan_of
from builders.small_recipes import GENERAL
from hypothesis import given
from hypothesis import strategies as st

from midstudy.plan.parts import Divided, balanced, divide, is_large
from midstudy.plan.planner import Plan
from midstudy.plan.summary import plan_facts, plan_text
from midstudy.recipe.data import Corpus, SourceMix, TokenizedData, Tokenizer
from midstudy.recipe.parts import DocumentSizes, ShardLayout, TokensPart
from midstudy.recipe.stage import stage_id

NUM_FILES, DOCUMENT = 8, {"text": "some words of text " * 50}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight files of train, of about 10 kB each, and one of dev and test."""
    folder = tmp_path_factory.mktemp("web")
    for number in range(NUM_FILES):
        write_file(folder / f"train-{number}.jsonl", [DOCUMENT] * 10)
    for split in ("dev", "test"):
        write_file(folder / f"{split}.jsonl", [DOCUMENT])
    return folder


def corpus(folder: Path, *, max_bytes: int | None = None) -> Corpus:
    return Corpus(name="web", source=source_of(folder), max_bytes=max_bytes)


def tokenized(data: Corpus) -> TokenizedData:
    return TokenizedData(data=data, tokenizer=Tokenizer(corpus=GENERAL, vocab_size=512, max_bytes=100_000))


def planned(data: Corpus, *, part_bytes: int, published: frozenset[str] = frozenset()) -> Plan:
    with small_parts(part_bytes=part_bytes, shard_bytes=1_000):
        return plan_of(tokenized(data), published=published)


def recipes_of(plan: Plan, recipe: type) -> list[Any]:
    return [stage.recipe for stage in plan.stages.values() if isinstance(stage.recipe, recipe)]


def test_dividing_a_source_moves_no_id_and_adds_only_the_stages_before_the_join(folder: Path) -> None:
    whole = planned(corpus(folder), part_bytes=2**30)
    divided = planned(corpus(folder), part_bytes=20_000)
    assert whole.divided == ()
    assert set(whole.stages) < set(divided.stages)
    added = [stage for stage_id, stage in divided.stages.items() if stage_id not in whole.stages]
    assert {type(stage.recipe) for stage in added} == {DocumentSizes, ShardLayout, TokensPart}
    tokens_id = stage_id(tokenized(corpus(folder)))
    assert whole.stages[tokens_id].canonical_form == divided.stages[tokens_id].canonical_form
    (layout,) = (stage for stage in added if isinstance(stage.recipe, ShardLayout))
    parts = [stage for stage in added if isinstance(stage.recipe, TokensPart)]
    assert divided.stages[tokens_id].parents == (whole.stages[tokens_id].parents[0], *(part.id for part in parts))
    assert {part.parents for part in parts} == {(whole.stages[tokens_id].parents[0], layout.id)}


def test_sizes_cover_every_file_once(folder: Path) -> None:
    plan = planned(corpus(folder), part_bytes=20_000)
    ranges = [(one.first_file, one.stop_file) for one in recipes_of(plan, DocumentSizes)]
    assert [number for start, stop in ranges for number in range(start, stop)] == list(range(NUM_FILES + 2))
    assert len(ranges) == len(recipes_of(plan, TokensPart)) == 4


def test_a_limit_leaves_the_files_after_it_unread(folder: Path) -> None:
    plan = planned(corpus(folder, max_bytes=20_000), part_bytes=5_000)
    stops = [one.stop_file for one in recipes_of(plan, DocumentSizes)]
    assert max(stops) == 3  # 25,000 bytes of files for 20,000 of text


def test_with_carved_splits_a_limit_reads_as_far_as_the_rarest_split_needs(tmp_path: Path) -> None:
    for number in range(NUM_FILES):
        write_file(tmp_path / f"train-{number}.jsonl", [DOCUMENT] * 10)
    plan = planned(corpus(tmp_path, max_bytes=20_000), part_bytes=5_000)
    assert max(one.stop_file for one in recipes_of(plan, DocumentSizes)) == NUM_FILES


def test_a_finished_token_stage_needs_no_parts(folder: Path) -> None:
    tokens_id = stage_id(tokenized(corpus(folder)))
    plan = planned(corpus(folder), part_bytes=20_000, published=frozenset({tokens_id}))
    assert plan.divided == ()
    assert recipes_of(plan, TokensPart) == []


def test_small_sources_built_in_text_and_mixes_are_not_divided(folder: Path, tmp_path: Path) -> None:
    assert not is_large(1.9 * 2**30)
    write_file(tmp_path / "train.jsonl", [DOCUMENT] * 7)
    mix = SourceMix.of({source_of(folder): "1/2", source_of(tmp_path): "1/2"})
    for data in (
        GENERAL,
        Corpus(name="mix", source=mix),
        corpus(tmp_path),
    ):  # the last is one file, with dev and test carved
        assert divide(tokenized(data), "t", text_bytes=1e12, bytes_per_s=None) is None


def test_the_plan_states_jobs_hours_traffic_and_disk(folder: Path) -> None:
    plan = planned(corpus(folder), part_bytes=20_000)
    (facts,) = plan_facts(plan)["parts"]
    assert facts["num_parts"] == 4
    assert facts["num_files"] == NUM_FILES + 2
    assert facts["num_readings"] == 2
    assert facts["stored_bytes"] == sum(path.stat().st_size for path in folder.iterdir())
    assert facts["tokenising_s"] > facts["text_bytes"] / 4e6
    assert not facts["rate_is_measured"]
    text = plan_text(plan)
    assert "  parts    web: 4 jobs of about" in text
    assert "from 10 files of 0.0 GB, read 2 times" in text


def of(*, parts: int, **seconds: float) -> Divided:
    facts = {"measuring_s": 0.0, "layout_s": 0.0, "tokenising_s": 0.0, "joining_s": 0.0, **seconds}
    return Divided(
        tokens_id="t", data="d", stages=(), part_ids=("p",) * parts, num_files=1, stored_bytes=1, num_readings=2,
        text_bytes=1.0, token_bytes=1, bytes_per_s=1.0, rate_is_measured=False, is_remote=False, **facts,
    )  # fmt: skip


def test_jobs_at_a_time_shorten_what_is_divided_alone() -> None:
    one = of(parts=10, measuring_s=100.0, tokenising_s=900.0, layout_s=5.0, joining_s=7.0)
    assert one.cpu_s == 1_012.0
    assert one.wall_s(1) == 1_012.0
    assert one.wall_s(4) == 262.0
    assert one.wall_s(10) == one.wall_s(1_000) == 112.0


@given(sizes=st.lists(st.integers(0, 1_000), min_size=1, max_size=60), num_groups=st.integers(1, 20))
def test_runs_of_files_are_consecutive_complete_and_balanced(sizes: list[int], num_groups: int) -> None:
    runs = balanced([float(size) for size in sizes], num_groups)
    assert [place for run in runs for place in run] == list(range(len(sizes)))
    assert 1 <= len(runs) <= num_groups
    assert all(run for run in runs)
    fair = sum(sizes) / num_groups
    assert all(sum(sizes[place] for place in run) <= fair + max(sizes) + 1e-6 for run in runs)
