"""Interrupted at any time, split into runs or into micro-batches: the same batches and the same published results."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from builders.changed_studies import state_before_sft
from builders.places import PYTHONPATH
from builders.small_study import WORDS, plan_in, small_study, write_split, write_text
from builders.sums_study import sums_study, write_sums
from builders.waiting import wait_until
from hypothesis import given, settings
from hypothesis import strategies as st

from midstudy.data.batch import Batch
from midstudy.data.batches import Batches
from midstudy.data.tokens import read_split
from midstudy.execute.stage import execute_stage
from midstudy.launch.job_file import (
    Job,
    JobStage,
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
from midstudy.recipe import Curriculum
from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import TokenizedData
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.attempt import read_metrics
from midstudy.store.store import Store
from midstudy.train.engine import Metrics, TrainingRun
from midstudy.train.placement import Placement
from midstudy.train.rolling import latest_valid

# -- several runs, micro-batches --------------------------------------------------------------------------------------


@dataclass(repr=False)  # because hypothesis would print the tensors
class Course:
    """A curriculum of three phases on real token files, and the batches and metrics of its uninterrupted run."""

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
def course(text: Path, tmp_path_factory: pytest.TempPathFactory) -> Course:
    store = Store.open(tmp_path_factory.mktemp("course") / "store", create=True)
    plan = plan_in(store, small_study(text))
    curriculum = plan.arms[1].arm.curriculum
    names = [placed.phase.name.split()[0] for placed in curriculum.stretches]
    assert names == ["pretrain", "midtrain", "sft"]
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
    course.final = {name: parameter.detach().clone() for name, parameter in run.model.named_parameters()}
    return course


@given(
    cuts=st.sets(st.integers(1, 15)).map(sorted),
    micro_batches=st.lists(st.sampled_from([None, 1, 2, 3, 4]), min_size=1, max_size=4),
    saved=st.booleans(),
)
@settings(max_examples=10)
def test_split_runs_with_any_micro_batches_read_the_same_batches(
    course: Course, tmp_path_factory: pytest.TempPathFactory, cuts: list[int], micro_batches: list[int | None], saved: bool
) -> None:
    """Each run has its own micro-batch size and, if `saved`, starts from a state loaded from disk."""
    run, folder = course.begin(), tmp_path_factory.mktemp("pieces")
    read: list[bytes] = []
    metrics: list[Metrics] = []
    for number, stop in enumerate([*cuts, course.curriculum.num_steps]):
        batches, rows = course.advance(run, stop, micro_batches[number % len(micro_batches)])
        read, metrics = read + batches, metrics + rows
        if saved:
            run.save(folder / str(stop), with_optimizer=True)
            run = TrainingRun.load(folder / str(stop))
    assert read == course.read
    is_exact = set(micro_batches[: len(cuts) + 1]) <= {None, 4}  # four sequences per step: one micro-batch
    for row, expected in zip(metrics, course.metrics, strict=True):
        assert row["loss_nats"] == (expected["loss_nats"] if is_exact else pytest.approx(expected["loss_nats"], rel=1e-4))
    if is_exact:
        assert all(torch.equal(weights, course.final[name]) for name, weights in run.model.named_parameters())


# -- killed -----------------------------------------------------------------------------------------------------------

SIGNALS = (signal.SIGTERM, signal.SIGUSR2, signal.SIGKILL)


def submit(store: Store, launcher: LocalLauncher, *stages: Stage) -> Job:
    """Start a job that makes these stages."""
    for stage in stages:
        store.request(stage)
    job = Job(
        name=job_name(stages[0].id),
        study="small",
        stages=tuple(
            JobStage(id=stage.id, start_from=stage.start_from, keeps_optimizer=stage.keeps_optimizer) for stage in stages
        ),
        backend="local",
        placement=launcher.placement_for(stages),
        entry=launcher.entry,
        driver=this_process(),
    )
    write_job(store, job)
    launcher.submit([job])
    return job


def wait(store: Store, launcher: LocalLauncher, job: Job) -> None:
    """Wait until a job has ended, and record a missing end, as its driver would."""
    wait_until(lambda: launcher.poll([job]))
    if job_end(store, job.name) is None:
        write_end(store, job.name, "gone")


class Victim:
    """A stage that is made by real job processes of the local launcher and interrupted several times.

    Args:
        entry: function of `interruptible_execute`.
    """

    def __init__(self, store: Store, stage: Stage, *, entry: str, seed: int) -> None:
        self.store, self.stage, self.random = store, stage, random.Random(seed)
        self.launcher = LocalLauncher(store, entry=f"builders.interruptible_execute:{entry}", grace_s=1.0)
        self.saves_every_step = entry == "every_step"
        self.interruptions: Counter[str] = Counter()

    def make(self, num_interruptions: int) -> Counter[str]:
        """Interrupt the stage, then let it finish; return how often each signal ended an attempt."""
        try:
            if isinstance(self.stage.recipe, State):
                self.interrupt_training(self.stage.recipe.step, num_interruptions)
            else:
                self.interrupt_evaluation(num_interruptions)
            if not self.store.has(self.stage.id):
                wait(self.store, self.launcher, submit(self.store, self.launcher, self.stage))
            assert self.store.has(self.stage.id), self.store.failure(self.stage.id)
        finally:
            self.launcher.cancel([job for job in unended_jobs(self.store) if self.stage.id in job.stage_ids])
        return self.interruptions

    def interrupt_training(self, last: int, num_interruptions: int) -> None:
        """Interrupt once in every part of the stage, so that attempts make progress; some at their start, one at the end."""
        first = last - self.stage.num_steps
        for number in range(num_interruptions - 1):
            step = first + int((number + self.random.random()) * 0.95 * self.stage.num_steps / num_interruptions)
            at_once = number % 5 == 4
            self.interrupt(SIGNALS[number % 3], at_step=None if at_once else step, within_s=0.1 if at_once else 0.03)
        self.interrupt(signal.SIGKILL, at_step=last, within_s=0.02)

    def interrupt_evaluation(self, num_interruptions: int) -> None:
        """Interrupt an evaluation, which starts from the beginning each time."""
        for number in range(num_interruptions):
            if not self.store.has(self.stage.id):
                self.interrupt(SIGNALS[number % 3], at_step=None, within_s=0.5)

    def interrupt(self, number: signal.Signals, *, at_step: int | None, within_s: float) -> None:
        """Start the stage; after it has started, or logged `at_step`, send a signal at a random time within `within_s`."""
        job = submit(self.store, self.launcher, self.stage)
        process = job_process(self.store, job.name)
        assert process is not None
        attempt = None
        while not self.launcher.poll([job]):
            attempt = attempt or self.attempt_of(process.pid)
            if attempt is not None and (at_step is None or last_logged(attempt) >= at_step):
                break
            time.sleep(0.003)
        time.sleep(self.random.uniform(0, within_s))
        process.signal_session(number)
        wait(self.store, self.launcher, job)
        assert self.store.failure(self.stage.id) is None
        if self.store.has(self.stage.id):  # it finished before the signal
            return
        self.interruptions[number.name] += 1
        assert job_end(self.store, job.name) == ("gone" if number == signal.SIGKILL else "stopped")
        if isinstance(self.stage.recipe, State):
            self.check_what_is_lost(number, first=self.stage.recipe.step - self.stage.num_steps)

    def attempt_of(self, pid: int) -> Path | None:
        attempts = self.store.previous_attempts(self.stage.id)
        return next((attempt for attempt in attempts if f"-{pid}-" in attempt.name), None)

    def check_what_is_lost(self, number: signal.Signals, *, first: int) -> None:
        """Check how much the next attempt recomputes: at most a checkpoint interval after SIGKILL, else no whole step."""
        attempts = self.store.previous_attempts(self.stage.id)
        latest = latest_valid(*(attempt / "checkpoints" for attempt in attempts))
        saved = int(latest.name.removeprefix("step-")) if latest else first
        lost = [line["step"] for line in read_metrics(attempts[0] / "result" / "metrics.jsonl") if line["step"] > saved]
        if number != signal.SIGKILL:
            assert lost == []
        elif self.saves_every_step:  # each step is logged and saved before the next starts
            assert len(lost) <= 1
        else:  # besides every tenth step, a line is logged only before a checkpoint is written
            assert len([step for step in lost if step % 10]) <= 1


def last_logged(attempt: Path) -> int:
    return max((line["step"] for line in read_metrics(attempt / "result" / "metrics.jsonl")), default=-1)


@pytest.fixture(scope="module")
def long_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return text whose general test split takes seconds to evaluate."""
    folder = tmp_path_factory.mktemp("long text")
    write_text(folder)
    draw = random.Random(1)
    rows = ({"text": " ".join(draw.choices(WORDS, k=60)) + "."} for _ in range(4000))
    write_split(folder / "general", "test", rows)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1800)  # three minutes on two idle cores, most of it importing torch in each job
def test_stages_killed_at_random_times_end_with_the_same_results(
    long_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    calm, store = (Store.open(tmp_path / name / "store", create=True) for name in ("calm", "killed"))
    plan = plan_in(calm, small_study(long_text, total_steps=700, starts=(100,), sft_steps=400, test_items=20_000))
    stages = chosen_stages(plan)
    data = [stage for stage in plan.missing if stage.kind in ("tokenizer", "tokens")]
    launcher = LocalLauncher(calm)
    wait(calm, launcher, submit(calm, launcher, *data, *stages.values()))
    assert len(calm.published(stage.id for stage in stages.values())) == len(stages)

    for stage in data:
        shutil.copytree(calm.paths.stage(stage.id), store.paths.stage(stage.id))
    counts: Counter[str] = Counter()
    for side_by_side in (
        [("trunk", "every_step", 12)],
        [("trunk's end", "every_50_ms", 14), ("branch", "every_50_ms", 14)],
        [("sft", "every_step", 14), ("evaluation", "every_step", 8)],
    ):
        with ThreadPoolExecutor() as threads:
            victims = [
                threads.submit(Victim(store, stages[name], entry=entry, seed=seed).make, number)
                for seed, (name, entry, number) in enumerate(side_by_side)
            ]
            for victim in victims:
                counts.update(victim.result())
    assert counts.total() >= 50, counts
    assert min(counts[number.name] for number in SIGNALS) >= 12, counts
    for name, stage in stages.items():
        assert_same(store, calm, stage, name)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_rollouts_killed_at_random_times_end_with_the_same_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step reads depends on its weights, so a wrong bit would change the answers of all later steps."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    calm, store = (Store.open(tmp_path / name / "store", create=True) for name in ("calm", "killed"))
    write_sums(tmp_path)
    study = sums_study(tmp_path, sft_steps=100, rl_steps=120, num_prompts=8, num_samples=8)
    plan = plan_in(calm, study)
    stage = plan.stages[study.arms[0].curriculum.state().id]
    before = [one for one in plan.missing if one.role not in ("rl", "evaluation")]
    launcher = LocalLauncher(calm)
    wait(calm, launcher, submit(calm, launcher, *before, stage))
    assert calm.has(stage.id), calm.failure(stage.id)
    for one in before:
        shutil.copytree(calm.paths.stage(one.id), store.paths.stage(one.id))
    counts = Victim(store, stage, entry="every_step", seed=3).make(10)
    assert counts.total() >= 8, counts
    assert_same(store, calm, stage, "rl")
    rewards = [[line["mean_reward"] for line in lines(each, stage)] for each in (store, calm)]
    assert rewards[0] == rewards[1]
    assert len({*rewards[0]}) > 5


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling needs a C++ compiler")
def test_a_signal_while_kernels_are_compiled_stops_the_stage_at_a_saved_step(
    long_text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The signal goes to the whole session, as from a scheduler; the compiler finishes, then the stage stops."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "kernels"))
    store = Store.open(tmp_path / "store", create=True)
    plan = plan_in(store, small_study(long_text, total_steps=20, starts=(), precision="bf16_mixed"))
    data = [stage for stage in plan.missing if stage.kind in ("tokenizer", "tokens")]
    launcher = LocalLauncher(store, placement=Placement(compiled=True))
    wait(store, launcher, submit(store, launcher, *data))
    stage = next(stage for stage in plan.missing if stage.kind == "state")
    job = submit(store, launcher, stage)
    process = job_process(store, job.name)
    assert process is not None
    wait_until(lambda: any(_command(pid).startswith(b"cc1plus") for pid in session_of(process.pid)))
    process.signal_session(signal.SIGTERM)
    wait(store, launcher, job)
    assert job_end(store, job.name) == "stopped"
    assert store.failure(stage.id) is None
    assert not store.has(stage.id)
    wait(store, launcher, submit(store, launcher, stage))
    assert store.has(stage.id), store.failure(stage.id)
    record = store.record(stage.id)
    assert record.environment["placement"]["compiled"] is True
    assert record.metrics["recomputed_steps"] == 0


def session_of(leader: int) -> list[int]:
    pids = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    return [pid for pid in pids if _sid(pid) == leader]


def _sid(pid: int) -> int | None:
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes()
    except OSError:
        return b""


def chosen_stages(plan: Plan) -> dict[str, Stage]:
    """Return a trunk up to its branch point, its rest, the branch, and the branch's fine-tuning and evaluation."""
    entry = next(planned for planned in plan.arms if planned.arm.factors["mix"] == "code")
    control = next(planned for planned in plan.arms if planned.arm.factors["mix"] == "control")
    point = plan.stages[state_before_sft(entry)].start_from
    assert point is not None
    stages = {
        "trunk": plan.stages[point],
        "trunk's end": plan.stages[state_before_sft(control)],
        "branch": plan.stages[state_before_sft(entry)],
        "sft": plan.stages[entry.state],
        "evaluation": plan.stages[entry.measures["general_loss_before"][0]],
    }
    assert stages["trunk's end"].start_from == point
    assert stages["sft"].start_from == state_before_sft(entry)
    return stages


def assert_same(store: Store, calm: Store, stage: Stage, name: str) -> None:
    """Check that weights, moments and losses of both stores are bitwise equal, and that no interrupted attempt is left."""
    record, expected = store.record(stage.id), calm.record(stage.id)
    tensors = [file for file in expected.files if file.startswith("checkpoint/")]
    assert {file: record.files[file] for file in tensors} == {file: expected.files[file] for file in tensors}, name
    # Killed while it removes the attempts of a stage that it has published, a job leaves them to `midstudy clean`.
    left = [path.name for path in store.paths.stage(stage.id).iterdir() if not path.name.startswith(".attempts-")]
    assert sorted(left) == ["published", "recipe.json"]
    assert not list(store.published_folder(stage.id).rglob(".*"))
    keys = ("train_loss_nats", "loss_nats", "target_tokens", "token_shares", "epochs", "num_tokens", "num_steps")
    assert {key: record.metrics.get(key) for key in keys} == {key: expected.metrics.get(key) for key in keys}, name
    if stage.kind != "state":
        return
    curve, calm_curve = ({line["step"]: line for line in lines(each, stage)} for each in (store, calm))
    steps = [line["step"] for line in lines(store, stage)]
    assert steps == sorted(set(steps)), name
    assert set(calm_curve) <= set(curve), name
    for step, line in calm_curve.items():
        for key in ("loss_nats", "lr", "grad_norm", "tokens_seen"):
            assert curve[step][key] == line[key], (name, step, key)


def lines(store: Store, stage: Stage) -> list[dict[str, Any]]:
    return list(read_metrics(store.published_folder(stage.id) / "metrics.jsonl"))
