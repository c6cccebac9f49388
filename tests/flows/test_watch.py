"""What a view is told of a study, and what it makes of it, without Prefect's server."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import pytest
from builders.synthetic_study import SyntheticStudy, frozen, stage_entry, synthetic_study

from midstudy.flows.artifacts import progress_text, results_table, study_text
from midstudy.run.watch import FAILED, FINISHED, INTERRUPTED, REUSED, SKIPPED, End, Watch
from midstudy.store.store import Store

STAGES = {name: stage_entry("tokens", "data", name, cost_s=cost_s) for name, cost_s in (("a", 6.0), ("b", 3.0), ("c", 1.0))}


def test_a_loop_in_another_thread_sees_stages_begin_and_end() -> None:
    watch = Watch(STAGES, max_jobs=1)
    seen: list[str] = []

    async def look() -> None:
        await watch.begun("a")
        seen.append("a begun")
        end = await watch.ended("a")
        seen.append(f"a {end.how}")
        await watch.begun("b")  # ended without having begun
        seen.append(f"b {(await watch.ended('b')).cause}")

    reader = threading.Thread(target=lambda: asyncio.run(look()))
    reader.start()
    watch.begin("a")
    watch.end("a", End(FINISHED))
    watch.end("b", End(SKIPPED, "a failed"))
    reader.join()
    assert seen == ["a begun", "a finished", "b a failed"]


def test_a_reader_that_gives_up_takes_nothing_from_the_others() -> None:
    watch = Watch(STAGES, max_jobs=1)

    async def look() -> End:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(watch.ended("a"), 0.01)
        watch.end("a", End(FINISHED))
        return await watch.ended("a")

    assert asyncio.run(look()) == End(FINISHED)


def test_the_share_done_counts_expected_seconds() -> None:
    watch = Watch(STAGES, max_jobs=2)
    assert watch.progress().left_s == pytest.approx(5.0), "10 s of work for two jobs"
    watch.begin("b")
    watch.end("a", End(REUSED))
    progress = watch.progress()
    assert (progress.share_done, progress.running, progress.reused, progress.ended) == (0.6, ("b",), 1, 1)
    watch.end("b", End(FAILED, "no"))
    watch.end("c", End(SKIPPED, "b failed"))
    progress = watch.progress()
    assert (progress.share_done, progress.left_s, progress.failed, progress.skipped) == (1.0, 0.0, 1, 1)
    assert watch.all_ended


def test_time_left_goes_by_the_speed_seen_so_far() -> None:
    watch = Watch(STAGES, max_jobs=2)
    watch.end("a", End(FINISHED, took_s=180.0))  # thirty times as long as expected
    assert watch.progress().left_s > 15 * 4.0 / 2


def test_what_ended_first_stands_and_an_interruption_ends_the_rest() -> None:
    watch = Watch(STAGES, max_jobs=1)
    watch.end("a", End(FINISHED))
    watch.end("a", End(FAILED))
    watch.interrupt()
    assert [watch.ends[name].how for name in "abc"] == [FINISHED, INTERRUPTED, INTERRUPTED]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def test_the_table_of_results_has_the_arms_that_are_evaluated(store: Store) -> None:
    study = frozen(store, synthetic_study())
    assert results_table(store, study.manifest) == []
    arm = study.arm(mix="code", task="pycode")
    study.publish(store, arm.measures["sft_loss"][0])
    study.publish(store, arm.measures["general_loss_before"][0])
    assert results_table(store, study.manifest) == [
        {
            "size": "micro", "mix": "code", "weight": 0.2, "start_step": 30, "task": "pycode", "trunk_seed": 0,
            "sft_seed": 0, "sft_loss": 3.4, "general_loss_before": 5.7,
        }
    ]  # fmt: skip


def test_the_page_of_a_study_tells_what_failed_and_how_to_run_it_again(store: Store) -> None:
    study: SyntheticStudy = frozen(store, synthetic_study())
    watch = Watch(study.stages, max_jobs=2)
    failed, *rest = study.stages
    watch.end(failed, End(FAILED, "ValueError: no such file\nTraceback"))
    for stage_id in rest:
        watch.end(stage_id, End(SKIPPED, "needs it"))
    page = study_text(store, study.manifest, watch, mlflow_page=None)
    for wanted in (
        "Does code help code?",
        f"**{progress_text(watch.progress())}**",
        "**Failed: tokenizer 2,048 on general**\n\nValueError: no such file\n",
        f"midstudy retry --store {store.root} synthetic {failed}",
        f"midstudy ui --store {store.root}",
    ):
        assert wanted in page
    assert "Traceback" not in page
    served = study_text(store, study.manifest, watch, mlflow_page="http://mlflow/#/experiments/7")
    assert "(http://mlflow/#/experiments/7)" in served
    assert "midstudy ui" not in served
