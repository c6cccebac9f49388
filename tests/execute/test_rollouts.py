"""Reinforcement learning: rewards, advantages, the policy gradient, exactness of the batches, and what is recorded."""

from __future__ import annotations

import itertools
import json
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from builders.places import PYTHONPATH
from builders.small_models import lively
from builders.small_study import make_study
from builders.sums_study import sums_study, write_sums
from builders.training_runs import batch_at, same_bits, weights
from builders.waiting import wait_until
from safetensors.numpy import load_file
from scipy import stats
from torch.nn import functional as F

from midstudy.data.batch import IGNORED, Batch
from midstudy.data.tokenizer import load_tokenizer
from midstudy.data.tokens import TokenizedSplit, read_split
from midstudy.evaluate.answers import Marks
from midstudy.evaluate.generate import Generated, special_ids
from midstudy.execute import rollouts as module
from midstudy.execute.rollouts import Answer, RolloutBatches, advantages_of, policy_gradient_batch
from midstudy.execute.stage import execute_stage
from midstudy.execute.stopped import StoppedError
from midstudy.launch.job_file import Job, JobStage, job_name, write_job
from midstudy.launch.local import LocalLauncher
from midstudy.launch.process import this_process
from midstudy.model.compiled import StopRequestedError
from midstudy.plan.planner import Plan
from midstudy.recipe import Constant, Curriculum, Rollouts, pythia
from midstudy.recipe.data import TokenizedData
from midstudy.recipe.generation import TRANSCRIPTS_FILE
from midstudy.recipe.measure import StateEvaluation
from midstudy.recipe.stage import Stage, stage_id
from midstudy.store.attempt import read_metrics
from midstudy.store.store import Store
from midstudy.train.engine import Metrics, TrainingRun
from midstudy.train.feed import Feed, portion_of
from midstudy.train.placement import Placement
from midstudy.train.ranks import Ranks

# -- the loss ---------------------------------------------------------------------------------------------------------


def test_advantages_are_rewards_less_their_prompts_mean() -> None:
    rewards = np.array([[1.0, 0, 0, 0], [1, 1, 1, 1], [1, 1, 0, 1]])
    advantages = advantages_of(rewards)
    assert advantages.tolist() == [[0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0], [0.25, 0.25, -0.75, 0.25]]
    assert advantages.sum(axis=1).tolist() == [0, 0, 0]


def test_only_tokens_that_the_model_chose_are_targets() -> None:
    """A call (20 to 22), the tool's answer (30, 31), the answer and the end (23, 9); and a short answer, padded."""
    called = Answer([1, 2, 3], [20, 21, 22, 30, 31, 23, 9], [False, False, False, True, True, False, False])
    short = Answer([4], [24, 9], [False, False])
    batch = policy_gradient_batch([called, short], np.array([0.5, -0.5]), seq_len=48)
    x = IGNORED
    assert batch.input_ids.shape == (2, 16)
    assert batch.input_ids[0].tolist() == [1, 2, 3, 20, 21, 22, 30, 31, 23, 0, 0, 0, 0, 0, 0, 0]
    assert batch.targets[0].tolist() == [x, x, 20, 21, 22, x, x, 23, 9, x, x, x, x, x, x, x]
    assert batch.targets[1].tolist() == [24, 9, *[x] * 14]
    assert batch.weights is not None
    assert batch.weights[:, 0].tolist() == [0.5, -0.5]
    assert batch.num_targets == batch.total_weight == 7
    assert batch.rows(1, 2).total_weight == 2


def test_a_batch_is_no_wider_than_the_phase_allows() -> None:
    answer = Answer([1] * 6, [2] * 5, [False] * 5)
    assert policy_gradient_batch([answer], np.zeros(1), seq_len=11).input_ids.shape == (1, 11)


def answers_of_three(rng: np.random.Generator) -> list[Answer]:
    """Return six answers of different lengths to three prompts, one with tokens of a tool."""
    answers = []
    for row in range(6):
        prompt = rng.integers(1, 97, 3 + row // 2).tolist()
        tokens = rng.integers(1, 97, 2 + row).tolist()
        answers.append(Answer(prompt, tokens, [row == 4 and 1 < place < 4 for place in range(len(tokens))]))
    return answers


def by_hand(model: torch.nn.Module, answers: list[Answer], advantages: list[float]) -> torch.Tensor:
    """Return −Σ A log p(token) / (number of chosen tokens), one answer and one token at a time."""
    total, number = torch.zeros(()), 0
    for answer, advantage in zip(answers, advantages, strict=True):
        logits = model(torch.tensor([[*answer.prompt, *answer.tokens]]))[0]
        for place, (token, is_forced) in enumerate(zip(answer.tokens, answer.is_forced, strict=True)):
            if not is_forced:
                total = total - advantage * F.log_softmax(logits[len(answer.prompt) + place - 1], -1)[token]
                number += 1
    return total / number


def test_the_gradient_is_that_of_the_loss_written_by_hand() -> None:
    """Of a model of width 64, whose head and loss are fused, in one batch and in micro-batches."""
    model = lively(replace(pythia("nano", vocab_size=97, max_seq_len=32), num_layers=2))
    answers = answers_of_three(np.random.default_rng(0))
    advantages = advantages_of(np.array([[1.0, 0], [0, 0], [0, 1]])).ravel()
    loss = by_hand(model, answers, advantages.tolist())
    loss.backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}
    batch = policy_gradient_batch(answers, advantages, seq_len=32)
    for size in (6, 2, 1):
        model.zero_grad()
        losses = []
        for first in range(0, 6, size):
            rows = batch.rows(first, first + size)
            assert rows.weights is not None
            part = model.scaled_loss(
                torch.from_numpy(rows.input_ids),
                torch.from_numpy(rows.targets),
                scale=1 / batch.total_weight,
                weights=torch.from_numpy(rows.weights),
            )
            part.backward()
            losses.append(part.item())
        assert sum(losses) == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-6)


def test_the_tools_tokens_change_the_loss_only_as_context() -> None:
    """Where the forced tokens come last, nothing is predicted after them, and the loss does not depend on them at all."""
    model = lively(replace(pythia("nano", vocab_size=97, max_seq_len=32), num_layers=2))
    losses = []
    for forced in ([30, 31], [55, 3], [4, 4]):
        answer = Answer([1, 2, 3], [20, 21, *forced], [False, False, True, True])
        batch = policy_gradient_batch([answer], np.ones(1), seq_len=32)
        ids, targets = torch.from_numpy(batch.input_ids), torch.from_numpy(batch.targets)
        losses.append(model.scaled_loss(ids, targets, scale=0.5).item())
        gradient = torch.autograd.grad(model.scaled_loss(ids, targets, scale=0.5), model.head.weight)[0]
        assert gradient.abs().sum() > 0
    assert losses[0] == losses[1] == losses[2]


# -- the batches ------------------------------------------------------------------------------------------------------


@dataclass(repr=False)
class Course:
    """Sums after a little fine-tuning, made once: the store, its plan, the split, the tokenizer and the final state."""

    store: Store
    plan: Plan
    split: TokenizedSplit
    tokenizer: tokenizers.Tokenizer

    @property
    def curriculum(self) -> Curriculum:
        return self.plan.study.arms[0].curriculum

    @property
    def first(self) -> int:
        return self.curriculum.stretches[-1].start_step

    def tuned(self, **changes: Any) -> TrainingRun:
        folder = self.store.published_folder(self.curriculum.state_id(self.first)) / "checkpoint"
        return TrainingRun.load(folder, with_optimizer=False, **changes)

    def batches(self, run: TrainingRun, should_stop: Callable[[], bool] = lambda: False, **changes: Any) -> RolloutBatches:
        placed = self.curriculum.stretches[-1]
        assert isinstance(placed.phase.data, Rollouts)
        if changes:
            placed = replace(placed, phase=replace(placed.phase, data=replace(placed.phase.data, **changes)))
        return RolloutBatches(placed, self.split, self.tokenizer, run, should_stop)


def course_of(folder: Path, **options: Any) -> Course:
    write_sums(folder, with_tool=options.get("tool", False))
    store, study = Store.open(folder / "store", create=True), sums_study(folder, **options)
    plan = make_study(store, study)
    tokenizer = study.arms[0].curriculum.start.tokenizer
    task = study.arms[0].measures["after"].evaluation.data
    folder = store.published_folder(stage_id(TokenizedData(data=task, tokenizer=tokenizer)))
    return Course(store, plan, read_split(folder, "train"), load_tokenizer(store.published_folder(stage_id(tokenizer))))


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Course:
    return course_of(tmp_path_factory.mktemp("sums"), sft_steps=100, rl_steps=5, milestone=2)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[Answer]]:
    """The answers of every batch."""
    batches: list[list[Answer]] = []

    def kept(answers: list[Answer], advantages: Any, **options: Any) -> Batch:
        batches.append(answers)
        return policy_gradient_batch(answers, advantages, **options)

    monkeypatch.setattr(module, "policy_gradient_batch", kept)
    return batches


def test_a_batch_is_answers_of_its_prompts_in_order(course: Course, seen: list[list[Answer]]) -> None:
    run = course.tuned()
    batches = course.batches(run)
    batch = batches(course.first)
    again = course.batches(course.tuned())(course.first)
    assert batch.input_ids.tobytes() == again.input_ids.tobytes()
    assert [answer.prompt for answer in seen[0]] == [seen[0][row // 4 * 4].prompt for row in range(16)]
    assert len({tuple(answer.prompt) for answer in seen[0]}) == 4
    named = batches.text_at(course.first)
    assert named.startswith("sums train, prompts of items ")
    items = [int(word) for word in named.rpartition("items ")[2].split(", ")]
    prompts = {tuple(course.split.document(item)[: len(answer.prompt)]) for item in items for answer in seen[0]}
    assert {tuple(answer.prompt) for answer in seen[0]} <= prompts


def test_rewards_of_scripted_answers_are_counted_and_weigh_the_loss(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first prompt gets right answers only, the second one right of four, the others none."""
    script = iter(range(16))
    marks = Marks(course.tokenizer, 0)
    run = course.tuned()
    batches = course.batches(run)
    _, items = batches._prompts_at(course.first)
    replies = [marks.text(reply) for _, _, reply in module.prompts_and_references(course.split, items, marks)]

    def scripted(model: Any, prompts: Any, *, num_samples: int, **options: Any) -> list[Generated]:
        rows = []
        for number in script:
            text = replies[number // 4] if number < 5 else "no"
            tokens = [*course.tokenizer.encode(text, add_special_tokens=False).ids, marks.assistant_end]
            rows.append(Generated(0, 0, tokens=tokens, is_forced=[False] * len(tokens)))
        return rows

    monkeypatch.setattr(module, "generate", scripted)
    batch = batches(course.first)
    assert batch.weights is not None
    assert batch.weights[:, 0].tolist() == [0, 0, 0, 0, 0.75, -0.25, -0.25, -0.25, *[0] * 8]
    assert batches.facts["mean_reward"] == 5 / 16
    assert batches.facts["mixed_prompts"] == 1 / 4
    assert batches.facts["generated_tokens"] == batch.num_targets
    assert batches.facts["answer_tokens"] == batch.num_targets / 16


def test_each_sample_draws_its_own_first_token_from_the_models_softmax(course: Course, seen: list[list[Answer]]) -> None:
    run = course.tuned()
    phase = course.curriculum.stretches[-1].phase
    assert isinstance(phase.data, Rollouts)
    many = replace(phase, num_sequences=800, data=replace(phase.data, num_samples=800))
    placed = replace(course.curriculum.stretches[-1], phase=many)
    RolloutBatches(placed, course.split, course.tokenizer, run)(course.first)
    (answers,) = seen
    with torch.no_grad():
        logits = run.model(torch.tensor([answers[0].prompt]))[0, -1].double()
    expected = torch.softmax(logits, -1).numpy() * 800
    counts = np.bincount([answer.tokens[0] for answer in answers], minlength=len(expected))
    kept = expected >= 5
    assert kept.sum() > 5
    observed, wanted = np.append(counts[kept], counts[~kept].sum()), np.append(expected[kept], expected[~kept].sum())
    assert stats.chisquare(observed, wanted).pvalue > 0.001


def test_the_noise_of_a_step_is_its_own(course: Course, seen: list[list[Answer]]) -> None:
    """One prompt at all steps, from the same weights: other answers each time, and a different seed gives others again."""
    run = course.tuned()
    batches = course.batches(run, num_samples=4)
    batches._usable = batches._usable[:1]
    for number in range(3):
        run.step = course.first + number
        batches(run.step)
    texts = [
        [tuple(answer.tokens) for answer in answers[sample : sample + 4]] for answers in seen for sample in (0, 4, 8, 12)
    ]
    assert len({tuple(answer.prompt) for answers in seen for answer in answers}) == 1
    assert len({tuple(four) for four in texts}) == 12  # also where a prompt comes several times in one step


def test_answers_do_not_depend_on_what_is_generated_together(
    course: Course, seen: list[list[Answer]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for together in (256, 8, 1):
        monkeypatch.setattr(module, "ANSWERS_TOGETHER", together)
        course.batches(course.tuned())(course.first)
    assert seen[0] == seen[1] == seen[2]


def test_ranks_share_the_prompts_and_every_rank_has_the_whole_batch(course: Course, seen: list[list[Answer]]) -> None:
    alone = course.batches(course.tuned())(course.first)
    barrier, values = threading.Barrier(3), {}
    generated: dict[int, int] = {}

    class Together(Ranks):
        def from_every(self, value: Any) -> list[Any]:
            values[self.rank], generated[self.rank] = value, len(value)
            barrier.wait(timeout=60)
            return [values[rank] for rank in range(self.size)]

    def batch_of(rank: int) -> Batch:
        run = course.tuned()
        run.ranks = Together(rank, 3)
        return course.batches(run, lambda: True)(course.first)  # a rank that is asked to stop answers all the same

    with ThreadPoolExecutor() as threads:
        shared = [*threads.map(batch_of, range(3))]
    assert generated == {0: 8, 1: 4, 2: 4}
    for batch in shared:
        assert batch.input_ids.tobytes() == alone.input_ids.tobytes()
        assert batch.targets.tobytes() == alone.targets.tobytes()


def test_a_single_rank_stops_within_the_generation_of_a_step(course: Course) -> None:
    polls = iter([False, True])
    with pytest.raises(StopRequestedError):
        course.batches(course.tuned(), polls.__next__)(course.first)
    assert next(polls, None) is None


def test_no_prompt_with_room_is_an_error(course: Course) -> None:
    with pytest.raises(ValueError, match=r"rollouts\.sums: expected prompts of at most 1 tokens, .* got none among 350"):
        course.batches(course.tuned(), max_new_tokens=47)


# -- training ---------------------------------------------------------------------------------------------------------


def rl_stage(course: Course) -> Stage:
    return course.plan.stages[course.curriculum.state().id]


def lines_of(store: Store, stage: str | None) -> list[dict[str, Any]]:
    assert stage is not None
    timed = ("time", "tokens_per_s", "data_wait_s")
    rows = read_metrics(store.published_folder(stage) / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in timed} for row in rows]


def test_every_step_is_logged_with_its_rewards_and_lengths(course: Course) -> None:
    stage = rl_stage(course)
    assert stage.role == "rl"
    rows = lines_of(course.store, stage.start_from) + lines_of(course.store, stage.id)
    assert [row["step"] for row in rows] == [course.first + number for number in range(1, 6)]
    assert max(row["mixed_prompts"] for row in rows) > 0
    for row in rows:
        assert 0 <= row["mean_reward"] <= 1
        assert (row["mean_reward"] * 16) % 1 == 0
        assert (row["mixed_prompts"] * 4) % 1 == 0
        assert row["answer_tokens"] == row["generated_tokens"] / 16
    record = course.store.record(stage.id)
    assert record.metrics["generated_tokens"] == sum(row["generated_tokens"] for row in rows[2:])
    trained = rows[-1]["tokens_seen"] - rows[1]["tokens_seen"]
    assert trained == record.metrics["generated_tokens"]  # without a tool, every generated token is trained on
    assert record.metrics["left_out"]["sums"] == {"unit": "items", "used": 350, "limit": 44}


def advanced(course: Course, run: TrainingRun, to_step: int, **options: Any) -> list[Metrics]:
    metrics: list[Metrics] = []
    batches = course.batches(run)
    run.advance(course.curriculum, to_step=to_step, batch_at=batches, on_metrics=metrics.append, log_every=1, **options)
    return metrics


def test_a_step_without_mixed_rewards_has_no_gradient(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_right", lambda answer, reference, score: True)
    run = course.tuned()
    before = weights(run)
    (row,) = advanced(course, run, course.first + 1)
    assert row["grad_norm"] == row["loss_nats"] == 0
    assert same_bits(before, weights(run))  # nor weight decay, in this recipe


def test_each_target_counts_alike_in_the_noise_scale_and_the_mean() -> None:
    """Advantages add up to 0, so they cannot say which share of the batch a row is."""
    answers = [Answer([1, 2], [3, 4, 5], [False] * 3), Answer([1, 2], [3], [False]), Answer([6], [7, 8], [True, False])]
    batch = policy_gradient_batch(answers, np.array([0.5, -0.5, 0.0]), seq_len=8)
    portion = portion_of(batch, ranks=Ranks(), device=torch.device("cpu"))
    assert portion.row_weights.tolist() == [3, 1, 1]
    assert portion.total_weight == portion.num_targets == 5


def test_micro_batches_give_the_same_gradient(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_right", lambda answer, reference, score: len(answer) == 2)
    (whole,), (parts,) = (
        advanced(course, course.tuned(placement=Placement(micro_batch=size)), course.first + 1) for size in (None, 3)
    )
    for name in ("loss_nats", "grad_norm"):
        assert parts[name] == pytest.approx(whole[name], rel=1e-4, abs=1e-6)
    assert parts["tokens_seen"] == whole["tokens_seen"]
    assert whole["grad_norm"] > 0


def test_the_weights_move_towards_rewarded_answers(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rewarded for two characters, whatever they are, the model writes two."""
    monkeypatch.setattr(module, "is_right", lambda answer, reference, score: len(answer) == 2)
    phase = replace(course.curriculum.stretches[-1].phase, num_steps=40, schedule=Constant(lr=1e-3))
    longer = course.curriculum.until(course.first).then(phase)
    run = course.tuned()
    batches = RolloutBatches(longer.stretches[-1], course.split, course.tokenizer, run)
    rewards: list[float] = []

    def note(metrics: Metrics) -> None:
        rewards.append(batches.facts["mean_reward"])

    run.advance(longer, to_step=longer.num_steps, batch_at=batches, on_metrics=note, log_every=1)
    assert np.mean(rewards[-5:]) > np.mean(rewards[:5]) + 0.3, rewards


def test_no_batch_is_made_before_the_weights_that_it_is_drawn_from(course: Course, monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on a CPU, other batches are made one step ahead."""
    ahead: list[bool] = []

    class Noted(Feed):
        def __init__(self, *args: Any, **options: Any) -> None:
            ahead.append(options["ahead"])
            super().__init__(*args, **options | {"ahead": False})

        def take(self, step: int) -> Any:
            raise StopRequestedError

    monkeypatch.setattr("midstudy.train.engine.Feed", Noted)
    tuned = course.curriculum.until(course.first)
    for run, curriculum in ((course.tuned(), course.curriculum), (TrainingRun.begin(tuned.start, precision="fp32"), tuned)):
        run.device = torch.device("meta")
        first = run.step
        assert not run.advance(curriculum, to_step=first + 1, batch_at=batch_at, on_metrics=lambda metrics: None)
        assert run.step == first
    assert ahead == [False, True]


# -- interrupted ------------------------------------------------------------------------------------------------------


def tensors(store: Store, stage: Stage) -> dict[str, bytes]:
    folder = store.published_folder(stage.id) / "checkpoint"
    return {
        f"{path.name}/{name}": tensor.tobytes()
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def made_again(course: Course, folder: Path, should_stop: Callable[[], bool], **options: Any) -> tuple[Store, int]:
    """Make the RL stages in a store that has everything before them; return it and the number of interruptions."""
    store = Store.open(folder / "store", create=True)
    for stage in course.plan.stages.values():
        if stage.role not in ("rl", "evaluation"):
            shutil.copytree(course.store.paths.stage(stage.id), store.paths.stage(stage.id))
    interruptions = 0
    for stage in (stage for stage in course.plan.stages.values() if stage.role == "rl"):
        store.request(stage)
        while not store.has(stage.id):
            try:
                execute_stage(
                    store,
                    stage.id,
                    start_from=stage.start_from,
                    keeps_optimizer=stage.keeps_optimizer,
                    should_stop=should_stop,
                    **options,
                )
            except StoppedError:
                interruptions += 1
    return store, interruptions


def test_a_phase_stopped_within_generation_and_updates_ends_with_the_same_bits(course: Course, tmp_path: Path) -> None:
    """The stop flag is polled before each update, after each token, and within the update: every ninth poll stops."""
    polls = itertools.count(1)
    store, interruptions = made_again(course, tmp_path, lambda: next(polls) % 9 == 0)
    assert interruptions >= 3
    assert max(line["grad_norm"] for line in lines_of(store, rl_stage(course).id)) > 0
    for stage in course.plan.stages.values():
        if stage.role == "rl":
            assert tensors(store, stage) == tensors(course.store, stage)
            assert lines_of(store, stage.id) == lines_of(course.store, stage.id)
            expected = course.store.record(stage.id).metrics
            for name in ("generated_tokens", "num_tokens", "train_loss_nats"):
                assert store.record(stage.id).metrics[name] == expected[name]


# -- with the tool ----------------------------------------------------------------------------------------------------


def test_calls_are_answered_by_the_calculator_whose_tokens_are_not_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that has learnt to call: its answers hold the calculator's tokens, which have neither target nor gradient."""
    course = course_of(tmp_path, tool=True, sft_steps=60, rl_steps=2)
    record = course.store.record(rl_stage(course).id)
    rows = lines_of(course.store, rl_stage(course).id)
    before = course.store.record(str(rl_stage(course).start_from)).metrics
    kept: list[list[Answer]] = []
    make = policy_gradient_batch

    def noted(answers: list[Answer], advantages: Any, **options: Any) -> Batch:
        kept.append(answers)
        return make(answers, advantages, **options)

    monkeypatch.setattr(module, "policy_gradient_batch", noted)
    batch = course.batches(course.tuned())(course.first)
    (answers,) = kept
    called = [answer for answer in answers if any(answer.is_forced)]
    assert len(called) >= 8
    output_start, output_end = special_ids(course.tokenizer)[-2:]
    for answer in called:
        forced = [token for token, is_forced in zip(answer.tokens, answer.is_forced, strict=True) if is_forced]
        assert forced[0] == output_start
    num_forced = sum(sum(answer.is_forced) for answer in answers)
    assert batch.num_targets == sum(len(answer.tokens) for answer in answers) - num_forced
    assert output_start not in batch.targets
    assert output_end not in batch.targets
    trained = rows[-1]["tokens_seen"] - rows[0]["tokens_seen"]
    assert trained < rows[-1]["generated_tokens"]
    assert record.metrics["generated_tokens"] == sum(row["generated_tokens"] for row in rows)
    assert before["train_loss_nats"] < 2


# -- several ranks ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_real_ranks_share_the_answers_and_train_as_one(
    course: Course, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first step has the answers of a single rank; then rounding may change some."""
    monkeypatch.setenv("PYTHONPATH", PYTHONPATH)
    store = Store.open(tmp_path / "store", create=True)
    stages = [stage for stage in course.plan.stages.values() if stage.role == "rl"]
    for stage in course.plan.stages.values():
        if stage.role not in ("rl", "evaluation"):
            shutil.copytree(course.store.paths.stage(stage.id), store.paths.stage(stage.id))
    launcher = LocalLauncher(store, placement=Placement(num_ranks=2))
    for stage in stages:
        store.request(stage)
    job = Job(
        name=job_name(stages[0].id),
        study="sums",
        stages=tuple(JobStage(id=one.id, start_from=one.start_from, keeps_optimizer=one.keeps_optimizer) for one in stages),
        backend="local",
        placement=launcher.placement_for(stages),
        entry=launcher.entry,
        driver=this_process(),
    )
    write_job(store, job)
    launcher.submit([job])
    wait_until(lambda: launcher.poll([job]))
    assert [store.failure(stage.id) for stage in stages] == [None, None]
    assert store.record(stages[0].id).environment["placement"]["num_ranks"] == 2
    ours, theirs = (lines_of(each, stages[0].id)[0] for each in (store, course.store))
    for name in ("mean_reward", "mixed_prompts", "answer_tokens", "generated_tokens", "tokens_seen"):
        assert ours[name] == theirs[name]
    for name in ("loss_nats", "grad_norm"):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-6)


# -- learning ---------------------------------------------------------------------------------------------------------


def shares_right(store: Store, state: str, evaluation: Any) -> np.ndarray[Any, Any]:
    """Return the share of right answers to each item of the test split, shape (num_items,)."""
    stage = StateEvaluation(state_id=state, evaluation=evaluation).id
    right: dict[int, list[bool]] = {}
    for line in (store.published_folder(stage) / TRANSCRIPTS_FILE).read_text("utf-8").splitlines():
        row = json.loads(line)
        right.setdefault(row["item"], []).append(row["right"])
    return np.array([np.mean(right[item]) for item in sorted(right)])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_sums_are_learnt_from_rewards_alone(tmp_path: Path) -> None:
    """Fine-tuned until some of eight answers are right for most sums, the model answers most of them after RL.

    The test split holds sums in wordings that training never saw. The interval is over its items.
    """
    course = course_of(tmp_path, sft_steps=150, rl_steps=500, num_prompts=16, num_samples=8)
    measures = course.plan.study.arms[0].measures
    before, after = (
        shares_right(course.store, measure.state.id, measure.evaluation)
        for measure in (measures["before"], measures["after"])
        if measure.state is not None
    )
    assert 0.05 < (before > 0).mean() < 0.9  # pass@8
    gains = after - before
    low = gains.mean() - 1.96 * gains.std(ddof=1) / len(gains) ** 0.5
    print(f"exact match {before.mean():.3f} -> {after.mean():.3f}, pass@8 {(before > 0).mean():.3f}, gain above {low:.3f}")
    assert low > 0.25
