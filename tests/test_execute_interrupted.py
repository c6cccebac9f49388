"""Interrupted anywhere, run in pieces or in micro-batches: the same batches, and what is published is the same."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_study import WORDS, plan_in, small_study, write_split, write_text

from midstudy.data.batch import Batch
from midstudy.data.batches import Batches
from midstudy.data.tokens import read_split
from midstudy.execute.stage import execute_stage
from midstudy.launch.job_file import (
    Job,
    JobStage,
    is_live,
    job_end,
    job_name,
    job_process,
    unended_jobs,
    write_end,
    write_job,
)
from midstudy.launch.local import LocalLauncher
from midstudy.launch.process import this_process
from midstudy.plan.planner import Plan
from midstudy.plan.stage import Stage, stage_id
from midstudy.recipe import Curriculum
from midstudy.recipe.canonical import identify
from midstudy.recipe.data import TokenizedData
from midstudy.store.attempt import read_metrics
from midstudy.store.store import Store
from midstudy.train.placement import Placement
from midstudy.train.rolling import latest_valid
from midstudy.train.run import Metrics, TrainingRun

# -- in pieces, in micro-batches --------------------------------------------------------------------------------------


@dataclass(repr=False)  # hypothesis would print the tensors
class Course:
    """A curriculum of three phases over real token files, and its undisturbed run: batches and metrics by step."""

    curriculum: Curriculum
    batches: Batches
    read: list[bytes] = field(default_factory=list)
    metrics: list[Metrics] = field(default_factory=list)
    final: dict[str, torch.Tensor] = field(default_factory=dict)

    def begin(self) -> TrainingRun:
        return TrainingRun.begin(self.curriculum.start, precision="fp32")

    def advance(self, run: TrainingRun, to_step: int, micro_batch: int | None = None) -> tuple[list[bytes], list[Metrics]]:
        read: list[bytes] = []
        metrics: list[Metrics] = []

        def batch_at(step: int) -> Batch:
            batch = self.batches(step)
            read.append(batch.input_ids.tobytes() + batch.targets.tobytes())
            return batch

        run.placement = Placement(micro_batch=micro_batch)
        run.advance(self.curriculum, to_step=to_step, batch_at=batch_at, on_metrics=metrics.append, log_every=1)
        return read, metrics


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Course]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("course")
    write_text(folder / "text")
    store = Store.open(folder / "store", create=True)
    plan = plan_in(store, small_study(folder / "text"))
    curriculum = plan.arms[1].arm.curriculum
    assert [stretch.phase.name for stretch in curriculum.stretches] == ["pretrain", "midtrain code", "sft code_task"]
    splits = {}
    for stage in plan.stages.values():
        if stage.kind in ("tokenizer", "tokens"):
            store.request(stage)
            execute_stage(store, stage.id, start_from=None, keeps_optimizer=False, should_stop=lambda: False)
        if isinstance(stage.recipe, TokenizedData):
            splits[identify(stage.recipe.data)] = read_split(store.published_folder(stage_id(stage.recipe)), "train")
    course = Course(curriculum, Batches(curriculum, splits))
    run = course.begin()
    course.read, course.metrics = course.advance(run, curriculum.num_steps)
    course.final = {name: one.detach().clone() for name, one in run.model.named_parameters()}
    yield course
    torch.set_num_threads(before)


@given(
    cuts=st.sets(st.integers(1, 15)).map(sorted),
    micro_batches=st.lists(st.sampled_from([None, 1, 2, 3, 4]), min_size=1, max_size=4),
    saved=st.booleans(),
)
@settings(max_examples=10)
def test_any_pieces_and_any_micro_batches_read_the_same_batches(
    course: Course, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], micro_batches: list[int | None], saved: bool
) -> None:
    """Each piece has a micro-batch of its own, and begins, where `saved`, in an object that was read from disk."""
    run, folder = course.begin(), tmp_path_factory.mktemp("pieces")
    read: list[bytes] = []
    metrics: list[Metrics] = []
    for number, stop in enumerate([*cuts, course.curriculum.num_steps]):
        batches, told = course.advance(run, stop, micro_batches[number % len(micro_batches)])
        read, metrics = read + batches, metrics + told
        if saved:
            run.save(folder / str(stop), with_optimizer=True)
            run = TrainingRun.load(folder / str(stop))
    assert read == course.read
    exactly = set(micro_batches[: len(cuts) + 1]) <= {None, 4}  # four sequences a step: one micro-batch
    for found, expected in zip(metrics, course.metrics, strict=True):
        assert found["loss_nats"] == (expected["loss_nats"] if exactly else pytest.approx(expected["loss_nats"], rel=1e-4))
    if exactly:
        assert all(torch.equal(weights, course.final[name]) for name, weights in run.model.named_parameters())


# -- killed -----------------------------------------------------------------------------------------------------------

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL)
SOON_S = 60.0


@dataclass
class Killed:
    """Makes stages in real job processes, as the local launcher starts them, and interrupts them on the way."""

    store: Store
    plan: Plan
    random: random.Random
    interruptions: dict[str, int] = field(default_factory=dict)

    def start(self, launcher: LocalLauncher, stage: Stage) -> Job:
        self.store.request(stage)
        job = Job(
            name=job_name(stage.id),
            study="small",
            stages=(JobStage(id=stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer),),
            backend="local",
            placement=Placement(),
            entry=launcher.entry,
            driver=this_process(),
        )
        write_job(self.store, job)
        launcher.submit(job)
        return job

    def wait(self, launcher: LocalLauncher, job: Job) -> None:
        until = time.monotonic() + SOON_S
        while not launcher.poll([job]):
            assert time.monotonic() < until, "the job does not end"
            time.sleep(0.002)
        if job_end(self.store, job.name) is None:
            write_end(self.store, job.name, "gone")

    def finish(self, launcher: LocalLauncher, stage: Stage) -> None:
        job = self.start(launcher, stage)
        self.wait(launcher, job)
        assert self.store.has(stage.id), self.store.failure(stage.id)

    def attempt(self, launcher: LocalLauncher, stage: Stage, job: Job) -> Path | None:
        """The folder of the job's attempt, once it is there; none where the job ended before."""
        process = job_process(self.store, job.name)
        assert process is not None
        while not launcher.poll([job]):
            for folder in self.store.former_attempts(stage.id):
                if f"-{process.pid}-" in folder.name:
                    return folder
            time.sleep(0.003)
        return None

    def interrupt(
        self, launcher: LocalLauncher, stage: Stage, number: signal.Signals, *, at_step: int | None, within_s: float
    ) -> None:
        """Start the stage, and send a signal soon after it logged `at_step`, or after it began; then look at what is left.

        Soon: at a random moment of the next `within_s` seconds.
        """
        job = self.start(launcher, stage)
        folder = self.attempt(launcher, stage, job)
        while folder is not None and at_step is not None and last_step(folder) < at_step and not launcher.poll([job]):
            time.sleep(0.003)
        time.sleep(self.random.uniform(0, within_s))
        process = job_process(self.store, job.name)
        assert process is not None
        process.signal_session(number)
        self.wait(launcher, job)
        assert self.store.failure(stage.id) is None
        if self.store.has(stage.id):  # it was quicker
            return
        self.interruptions[number.name] = self.interruptions.get(number.name, 0) + 1
        assert job_end(self.store, job.name) == ("gone" if number == signal.SIGKILL else "stopped")
        if stage.kind == "state":
            self.look_at_what_is_lost(stage, number, every_step=launcher.entry.endswith("every_step"))

    def look_at_what_is_lost(self, stage: Stage, number: signal.Signals, *, every_step: bool) -> None:
        attempts = self.store.former_attempts(stage.id)
        latest = latest_valid(*(attempt / "checkpoints" for attempt in attempts))
        start = stage.recipe.step - stage.num_steps  # type: ignore[union-attr]
        saved = int(latest.name.removeprefix("step-")) if latest else start
        lost = sorted(
            line["step"] for line in read_metrics(attempts[0] / "result" / "metrics.jsonl") if line["step"] > saved
        )
        if number != signal.SIGKILL:  # the step in progress is not logged
            assert lost == []
        elif every_step:  # a step is logged, saved, and only then the next begun
            assert len(lost) <= 1
        else:  # between reports, every tenth step, a line is logged only where a checkpoint is about to be written
            assert len([step for step in lost if step % 10]) <= 1


def last_step(attempt: Path) -> int:
    return max((line["step"] for line in read_metrics(attempt / "result" / "metrics.jsonl")), default=-1)


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Text whose general test split takes seconds to evaluate."""
    folder = tmp_path_factory.mktemp("long text")
    write_text(folder)
    draw = random.Random(1)
    rows = ({"text": " ".join(draw.choices(WORDS, k=60)) + "."} for _ in range(8000))
    write_split(folder / "general", "test", rows)
    return folder


@pytest.fixture
def tests_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the jobs find `interruptible_execute`, and this very tree."""
    tests = Path(__file__).parent
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tests), str(tests.parent)]))


@pytest.mark.slow
def test_killed_at_random_moments_every_stage_ends_as_if_it_had_been_left_alone(
    long_text: Path, tmp_path: Path, tests_on_path: None
) -> None:
    study = small_study(long_text, total_steps=700, starts=(100,), sft_steps=400, test_items=20_000)
    calm = Store.open(tmp_path / "calm" / "store", create=True)
    plan = plan_in(calm, study)
    undisturbed = Killed(calm, plan, random.Random())
    wanted = wanted_stages(plan)
    data = [stage for stage in plan.missing if stage.kind in ("tokenizer", "tokens")]

    def launcher(store: Store, how: str) -> LocalLauncher:
        return LocalLauncher(store, entry=f"interruptible_execute:{how}", grace_s=1.0)

    everything = Job(
        name=job_name(data[0].id),
        study="small",
        stages=tuple(
            JobStage(id=one.id, start_from=one.start_from, keeps_optimizer=one.keeps_optimizer)
            for one in (*data, *wanted.values())
        ),
        backend="local",
        placement=Placement(),
        entry="midstudy.execute.stage:execute_stage",
        driver=this_process(),
    )
    for stage in (*data, *wanted.values()):
        calm.request(stage)
    write_job(calm, everything)
    real = LocalLauncher(calm)
    real.submit(everything)
    undisturbed.wait(real, everything)
    assert calm.published(one.id for one in wanted.values()) == {one.id for one in wanted.values()}

    store = Store.open(tmp_path / "killed" / "store", create=True)
    for stage in data:
        shutil.copytree(calm.paths.stage(stage.id), store.paths.stage(stage.id))

    def make(name: str, how: str, number_of_kills: int, seed: int) -> dict[str, int]:
        stage, killed, draw = wanted[name], Killed(store, plan, random.Random(seed)), random.Random(seed)
        mine = launcher(store, how)
        try:
            if stage.kind == "state":
                start = stage.recipe.step - stage.num_steps  # type: ignore[union-attr]
                for kill in range(number_of_kills):
                    # One in every piece of the stage, so that each goes on a little; some as soon as it begins.
                    step = start + int((kill + draw.random()) * 0.95 * stage.num_steps / number_of_kills)
                    signal_ = SIGNALS[kill % 3]
                    if kill % 5 == 4:
                        killed.interrupt(mine, stage, signal_, at_step=None, within_s=0.1)
                    else:
                        killed.interrupt(mine, stage, signal_, at_step=step, within_s=0.03)
                killed.interrupt(mine, stage, signal.SIGKILL, at_step=stage.recipe.step, within_s=0.02)  # type: ignore[union-attr]
            else:
                for kill in range(number_of_kills):
                    killed.interrupt(mine, stage, SIGNALS[kill % 3], at_step=None, within_s=1.0)
            if not store.has(stage.id):
                killed.finish(mine, stage)
        finally:
            mine.cancel([job for job in unended_jobs(store) if stage.id in job.stage_ids and is_live(store, job)])
        return killed.interruptions

    waves: list[list[tuple[str, str, int]]] = [
        [("trunk", "every_step", 11)],
        [("trunk's end", "every_50_ms", 13), ("branch", "every_50_ms", 13)],
        [("sft", "every_step", 12), ("evaluation", "every_step", 8)],
    ]
    counts: dict[str, int] = {}
    for wave in waves:
        with ThreadPoolExecutor(len(wave)) as side_by_side:
            futures = [side_by_side.submit(make, *one, seed=number) for number, one in enumerate(wave)]
            for future in futures:
                for name, number in future.result().items():
                    counts[name] = counts.get(name, 0) + number
    assert sum(counts.values()) >= 50, counts
    assert min(counts[name.name] for name in SIGNALS) >= 12, counts
    for name, stage in wanted.items():
        assert_same(store, calm, stage, name)


def wanted_stages(plan: Plan) -> dict[str, Stage]:
    """A trunk up to its branch point, its rest, the branch, fine-tuning from the branch, and an evaluation of the branch."""
    entry = next(one for one in plan.arms if one.arm.mix == "code")
    control = next(one for one in plan.arms if one.arm.mix == "control")
    point = plan.stages[entry.start_state].start_from
    assert point is not None
    found = {
        "trunk": plan.stages[point],
        "trunk's end": plan.stages[control.start_state],
        "branch": plan.stages[entry.start_state],
        "sft": plan.stages[entry.final_state],
        "evaluation": plan.stages[entry.general_evaluation_before],
    }
    assert found["trunk's end"].start_from == point
    assert found["sft"].start_from == entry.start_state
    return found


def assert_same(store: Store, calm: Store, stage: Stage, name: str) -> None:
    """Weights, moments and losses of both stores are the same bit for bit, and nothing is left of the interruptions."""
    found, expected = store.record(stage.id), calm.record(stage.id)
    tensors = [file for file in expected.files if file.startswith("checkpoint/")]
    assert {file: found.files[file] for file in tensors} == {file: expected.files[file] for file in tensors}, name
    assert [path.name for path in store.paths.stage(stage.id).iterdir() if path.name != "recipe.json"] == ["published"]
    assert not list(store.published_folder(stage.id).rglob(".*"))
    same = ("train_loss_nats", "loss_nats", "target_tokens", "token_shares", "epochs", "num_tokens", "num_steps")
    assert {one: found.metrics.get(one) for one in same} == {one: expected.metrics.get(one) for one in same}, name
    if stage.kind != "state":
        return
    curve, calm_curve = ({line["step"]: line for line in lines(one, stage)} for one in (store, calm))
    steps = [line["step"] for line in lines(store, stage)]
    assert steps == sorted(set(steps)), name
    assert set(calm_curve) <= set(curve), name
    for step, line in calm_curve.items():
        for one in ("loss_nats", "lr", "grad_norm", "tokens_seen"):
            assert curve[step][one] == line[one], (name, step, one)


def lines(store: Store, stage: Stage) -> list[dict[str, Any]]:
    return list(read_metrics(store.published_folder(stage.id) / "metrics.jsonl"))
