"""Batches follow the recipe: document numbers, loss weights, and the sequence length of each phase."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from builders.small_recipes import CODE, GENERAL, MATH, PYCODE, phase, sft, start, trunk
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from midstudy.data.batch import IGNORED, Batch
from midstudy.data.batches import Batches, pack_blocks, pad_items
from midstudy.data.slots import Slots
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.loss import mean_loss
from midstudy.execute.evaluation import evaluate_state
from midstudy.recipe import Constant, Corpus, Curriculum, Evaluation, Mixture, MixtureRamp, RecipeError, Task
from midstudy.recipe.canonical import identify
from midstudy.train.engine import TrainingRun

VOCAB_SIZE = 512


def split_of(data: Corpus | Task, *, num_documents: int = 300) -> TokenizedSplit:
    """Return random documents of 5 to 40 tokens; the first token of each marks its data set."""
    random = np.random.default_rng(sum(data.name.encode()))
    mark = {"general": 1, "code": 2, "math": 3, "pycode": 4}[data.name]
    documents = []
    for _ in range(num_documents):
        ids = random.integers(10, VOCAB_SIZE, size=random.integers(5, 41))
        ids[0], ids[-1] = mark, 0
        documents.append(ids.astype(np.uint16))
    lengths = np.array([len(ids) for ids in documents])
    return TokenizedSplit(
        tokens=[np.concatenate(documents)],
        offsets=[np.concatenate(([0], np.cumsum(lengths)))],
        prompt_lengths=[lengths // 2] if isinstance(data, Task) else None,
    )


SPLITS: Mapping[str, TokenizedSplit] = {identify(data): split_of(data) for data in (GENERAL, CODE, MATH, PYCODE)}


def batches(curriculum: Curriculum) -> Batches:
    return Batches(curriculum, SPLITS)


def corpora_of(curriculum: Curriculum, step: int) -> list[Corpus]:
    """Return the corpus of each row of the batch from state `step`, in a curriculum of 8 sequences per step."""
    return [draw.corpus for draw in Slots(curriculum.stretches).draws(8 * step, 8)]


def test_some_rows_of_a_batch_are_a_batch() -> None:
    ids = np.arange(24).reshape(4, 6)
    whole = Batch(input_ids=ids, targets=ids + 1, weights=ids.astype(np.float32), documents=(ids // 3).astype(np.int32))
    part = whole.rows(1, 3)
    assert part.input_ids.tolist() == ids[1:3].tolist()
    assert part.targets.tolist() == (ids[1:3] + 1).tolist()
    assert part.weights is not None
    assert part.weights.tolist() == ids[1:3].tolist()
    assert part.documents is not None
    assert part.documents.tolist() == (ids[1:3] // 3).tolist()
    assert whole.rows(0, 2).total_weight + whole.rows(2, 4).total_weight == whole.total_weight
    plain = Batch(input_ids=ids, targets=ids).rows(2, 4)
    assert plain.weights is None
    assert plain.documents is None


def test_the_weight_of_a_position_without_a_target_does_not_count() -> None:
    ids = np.ones((2, 3), np.int64)
    targets = np.array([[5, IGNORED, 6], [IGNORED, IGNORED, 7]])
    weights = np.array([[0.5, 100.0, 0.25], [100.0, 100.0, 2.0]], np.float32)
    assert Batch(input_ids=ids, targets=targets).total_weight == 3
    assert Batch(input_ids=ids, targets=targets, weights=weights).total_weight == 2.75
    assert Batch(input_ids=ids, targets=targets, weights=weights).num_targets == 3


def test_an_end_of_text_token_belongs_to_the_document_before_it_and_keeps_its_target() -> None:
    block = np.array([[7, 8, 0, 9, 0, 0, 5, 6], [7, 8, 9, 7, 8, 9, 7, 0]])
    batch = pack_blocks(block, document_mask=True)
    assert batch.documents is not None
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, 2, 3], [0, 0, 0, 0, 0, 0, 0]]
    assert batch.documents.dtype == np.int32
    assert batch.targets.tolist() == block[:, 1:].tolist()  # the target of an end of text is the next document's first token
    assert pack_blocks(block, document_mask=False).documents is None


def test_a_document_mask_does_not_change_tokens_or_targets() -> None:
    masked, plain = batches(trunk(20, document_mask=True)), batches(trunk(20))
    for step in (0, 7, 19):
        left, right = masked(step), plain(step)
        assert np.array_equal(left.input_ids, right.input_ids)
        assert np.array_equal(left.targets, right.targets)
        assert right.documents is None
        assert left.documents is not None
        ends = np.diff(left.documents, axis=1, prepend=0)
        assert np.array_equal(ends[:, 1:] == 1, left.input_ids[:, :-1] == 0)
        assert set(np.unique(ends)) == {0, 1}


def test_rows_have_the_loss_weights_of_the_mixture() -> None:
    mixture = Mixture.blend(GENERAL, {CODE: 0.25, MATH: 0.25}, loss_weights={CODE: 0.5, MATH: 4})
    curriculum = trunk(20).branch(start_step=4, data=mixture, name="midtrain")
    weight = {GENERAL: 0.25, CODE: 0.125, MATH: 1.0}  # relative to the heaviest
    seen = set()
    for step in range(4, 20):
        batch = batches(curriculum)(step)
        assert batch.weights is not None
        assert batch.weights.dtype == np.float32
        for row, corpus in enumerate(corpora_of(curriculum, step)):
            assert set(batch.weights[row].tolist()) == {weight[corpus]}
            seen.add(corpus)
    assert seen == {GENERAL, CODE, MATH}
    assert batches(curriculum)(3).weights is None


def test_a_ramp_does_not_change_loss_weights() -> None:
    """Twice the base corpus from the first block: during the ramp, after it, and while the corpus is ramped out again."""
    plain, weighted = Mixture.only(GENERAL), Mixture.blend(GENERAL, {CODE: 0.5}, loss_weights={CODE: 2})
    up = MixtureRamp(from_mixture=plain, to_mixture=weighted, num_steps=8)
    down = MixtureRamp(from_mixture=weighted, to_mixture=plain, num_steps=8)
    curriculum = Curriculum.of(start(), phase(up, 12), phase(down, 8, schedule=None))
    for step in range(20):
        weights = batches(curriculum)(step).weights
        assert weights is not None
        assert weights[:, 0].tolist() == [1.0 if corpus == CODE else 0.5 for corpus in corpora_of(curriculum, step)]


def test_loss_weights_do_not_change_the_tokens_read() -> None:
    plain = trunk(20).branch(start_step=4, data=Mixture.blend(GENERAL, {CODE: 0.25}), name="x")
    mixture = Mixture.blend(GENERAL, {CODE: 0.25}, loss_weights={CODE: 0.5})
    weighted = trunk(20).branch(start_step=4, data=mixture, name="x")
    for step in range(20):
        assert np.array_equal(batches(plain)(step).input_ids, batches(weighted)(step).input_ids)
        assert batches(plain)(step).weights is None


@pytest.mark.parametrize("of_math", [0.5, 2, 1])
@pytest.mark.parametrize("of_code", [1, 4])
def test_a_deficit_settled_in_a_later_phase_keeps_its_loss_weight(of_math: float, of_code: float) -> None:
    """The weight is kept relative to the base corpus; in each mixture, the heaviest corpus has weight 1."""
    curriculum = Curriculum.of(
        start(),
        phase(Mixture.blend(GENERAL, {CODE: 0.7}), 5, num_sequences=3),
        phase(Mixture.blend(GENERAL, {MATH: 0.6}, loss_weights={MATH: of_math}), 6, num_sequences=3, schedule=None),
        phase(Mixture.blend(GENERAL, {CODE: 0.7}, loss_weights={CODE: of_code}), 6, num_sequences=3, schedule=None),
    )
    draws = Slots(curriculum.stretches).draws(0, 51)
    late = [slot for slot, draw in enumerate(draws) if draw.corpus == MATH and slot >= 33]
    assert late, "no deficit of mathematics is left for the last phase; choose other lengths"
    batch = batches(curriculum)(late[0] // 3)
    base = 1 / of_code
    weights = [{GENERAL: base, CODE: 1, MATH: of_math * base}[draw.corpus] for draw in draws[late[0] // 3 * 3 :][:3]]
    if set(weights) == {1}:
        assert batch.weights is None
    else:
        assert batch.weights is not None
        assert batch.weights.tolist() == [[weight] * 64 for weight in weights]


def test_a_phase_may_read_corpora_of_earlier_phases_with_a_deficit() -> None:
    """A stage therefore gets, and its plan waits for, more than the corpora of its own phase."""
    curriculum = Curriculum.of(start())
    for shares in ({CODE: 0.7}, {MATH: 0.6}, {CODE: 0.7}):
        mixture = Mixture.blend(GENERAL, shares)
        curriculum = curriculum.then(phase(mixture, 6, num_sequences=3, schedule=Constant(lr=1e-3)))
    last = curriculum.stretches[-1]
    assert set(curriculum.datasets_of(last)) == {GENERAL, CODE, MATH}
    assert set(curriculum.datasets_of(curriculum.stretches[0])) == {GENERAL, CODE}
    reset = curriculum.then(phase(Mixture.blend(GENERAL, {CODE: 0.7}), 6, num_sequences=3, data_positions="reset"))
    assert set(reset.datasets_of(reset.stretches[-1])) == {GENERAL, CODE}
    tuned = curriculum.then(sft(PYCODE, 4))
    assert set(tuned.datasets_of(tuned.stretches[-1])) == {PYCODE}


def pycode_batch(**changes: Any) -> Batch:
    curriculum = trunk(2).then(sft(PYCODE, 40, **changes))
    return batches(curriculum)(9)


def test_prompt_tokens_have_the_prompt_weight() -> None:
    masked = pycode_batch(loss="target_tokens")
    everything = pycode_batch(loss="all_tokens")
    weighted = pycode_batch(loss="target_tokens", prompt_weight=0.25)
    assert masked.weights is None
    assert everything.weights is None
    assert weighted.weights is not None
    assert np.array_equal(weighted.input_ids, masked.input_ids)
    assert np.array_equal(weighted.targets, everything.targets)
    expected = np.where(masked.targets != IGNORED, 1.0, np.where(everything.targets != IGNORED, 0.25, 0.0))
    assert np.array_equal(weighted.weights, expected)
    prompts = everything.num_targets - masked.num_targets
    assert prompts > 0
    assert weighted.total_weight == masked.num_targets + 0.25 * prompts


def test_the_prompt_weight_does_not_change_the_order() -> None:
    """Runs with different prompt weights read the same items, even if some prompts fill the context."""
    short = {"seq_len": 16, "loss": "target_tokens"}
    assert np.array_equal(pycode_batch(**short).input_ids, pycode_batch(**short, prompt_weight=0.9).input_ids)


def test_an_item_by_hand() -> None:
    """Prompt 5 6 7, target 8 9 and end of text: the last prompt token predicts the first target token."""
    split = TokenizedSplit([np.array([5, 6, 7, 8, 9, 0], np.uint16)], [np.array([0, 6])], [np.array([3])])
    item = np.array([0])
    batch = pad_items(split, item, seq_len=16, target_only=True, prompt_weight=0.5)
    assert batch.weights is not None
    assert batch.targets[0].tolist() == [6, 7, 8, 9, 0, IGNORED, IGNORED, IGNORED]
    assert batch.weights[0].tolist() == [0.5, 0.5, 1, 1, 1, 0, 0, 0]
    assert pad_items(split, item, seq_len=16, target_only=True).targets[0, :5].tolist() == [IGNORED, IGNORED, 8, 9, 0]
    assert pad_items(split, item, seq_len=16, target_only=False, prompt_weight=0.5).weights is None


def of_lengths(*lengths: int) -> Curriculum:
    """Return a curriculum of phases of 3 steps with these sequence lengths and equal tokens per step."""
    curriculum = Curriculum.of(start())
    for number, length in enumerate(lengths):
        mixture = Mixture.blend(GENERAL, {CODE: 0.25}) if number % 2 else Mixture.only(GENERAL)
        reset = {"optimizer_state": "continue" if number else "reset", "data_positions": "reset"}
        changes = {"seq_len": length, "num_sequences": 256 // length, "document_mask": True}
        curriculum = curriculum.then(phase(mixture, 3, **reset, **changes))
    return curriculum


@pytest.mark.parametrize("lengths", [(64, 16), (16, 64), (16, 32, 64)], ids=str)
def test_sequence_lengths_change_between_phases(lengths: tuple[int, ...]) -> None:
    curriculum = of_lengths(*lengths)
    read = batches(curriculum)
    for number, length in enumerate(lengths):
        alone = batches(Curriculum.of(start(), curriculum.stretches[number].phase))
        for step in range(3):
            batch = read(3 * number + step)
            assert batch.input_ids.shape == (256 // length, length)
            assert np.array_equal(batch.input_ids[:, 1:], batch.targets[:, :-1])
            # A phase that resets its data positions reads the same as it would alone.
            assert np.array_equal(batch.input_ids, alone(step).input_ids)
    assert sum(read.drawn.values()) == sum(3 * 256 // length for length in lengths)


@pytest.mark.parametrize("lengths", [(64, 16), (16, 64)], ids=str)
def test_a_model_is_trained_and_evaluated_across_a_change_of_length(lengths: tuple[int, ...], tmp_path: Any) -> None:
    curriculum = of_lengths(*lengths)
    losses = []
    run = TrainingRun.begin(curriculum.start, precision="fp32")
    assert run.advance(
        curriculum, to_step=6, batch_at=batches(curriculum), on_metrics=lambda m: losses.append(m["loss_nats"]), log_every=1
    )
    assert len(losses) == 6
    assert losses[-1] < losses[0]
    run.save(tmp_path / "state", with_optimizer=False)
    for length in lengths:
        for document_mask in (False, True):
            evaluation = Evaluation(
                data=GENERAL, split="test", loss="all_tokens", seq_len=length, max_sequences=40, document_mask=document_mask
            )
            metrics = evaluate_state(
                evaluation,
                checkpoint=tmp_path / "state",
                split=SPLITS[identify(GENERAL)],
                tokenizer=pytest.fail,
                folder=tmp_path,
            )
            blocks = SPLITS[identify(GENERAL)].tokens[: 40 * (length + 1)].astype(np.int64).reshape(40, length + 1)
            whole = mean_loss(run.model, [pack_blocks(blocks, document_mask=document_mask)])
            assert metrics["target_tokens"] == 40 * length
            assert metrics["loss_nats"] == pytest.approx(whole.loss_nats, rel=1e-6)


def test_a_length_beyond_the_models_context_or_with_continued_positions_is_rejected() -> None:
    with pytest.raises(RecipeError, match=r"phases.pretrain.seq_len: expected at most the model's 64 tokens, got 65"):
        of_lengths(16, 65)
    with pytest.raises(RecipeError, match=r'seq_len: expected 64.*, got 32.*Set data_positions="reset"'):
        trunk(5).then(phase(Mixture.only(GENERAL), 5, seq_len=32, schedule=None))


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8))
def test_documents_are_numbered_by_their_end_of_text_tokens(lengths: list[int]) -> None:
    whole: NDArray[np.int64] = np.concatenate([[*[9] * (length - 1), 0] for length in lengths] + [[9]])
    numbers = np.concatenate([[number] * length for number, length in enumerate(lengths)])
    batch = pack_blocks(whole[None], document_mask=True)
    assert batch.documents is not None
    assert batch.documents[0].tolist() == numbers.tolist()


def test_the_documents_that_a_step_reads_are_named() -> None:
    """Every row's tokens are within the named documents."""
    curriculum = of_lengths(16, 64)
    reader = batches(curriculum)
    for step in (0, 4):
        named = reader.text_at(step)
        batch = reader(step)
        texts_of = {}
        for part in named.split("; "):
            name, _, spans = part.partition(" train, documents ")
            data = {"general": GENERAL, "code": CODE, "math": MATH}[name]
            split = SPLITS[identify(data)]
            texts_of[name] = [
                np.concatenate([split.document(index) for index in range(int(ends[0]), int(ends[-1]) + 1)]).tolist()
                for ends in (span.split("–") for span in spans.split(", "))
            ]
        for row in batch.input_ids.tolist():
            assert any(
                row == text[first : first + len(row)]
                for texts in texts_of.values()
                for text in texts
                for first in range(len(text) - len(row) + 1)
            )
    assert re.fullmatch(r"pycode train, items \d+(, \d+)*", batches(trunk(2).then(sft(PYCODE, 4))).text_at(3))
