"""Packing decides which tokens fill which row, as in nanochat, and each item comes as often as the mixture says."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders.places import PYTHONPATH
from builders.small_recipes import TOKENIZER, task
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from midstudy.data import packing
from midstudy.data.batch import IGNORED
from midstudy.data.packed_counts import count, first_steps
from midstudy.data.packed_rows import PackedRows, read_counts, read_packed, save_packed
from midstudy.data.packing import Packed, pack
from midstudy.data.task_order import epoch_order
from midstudy.data.tokens import TokenizedSplit
from midstudy.recipe import Packing, TaskMixture, TaskPart

NAMES = ("chat", "quiz", "spell")


def mixture(*repeats: int, **changes: Any) -> TaskMixture:
    parts = tuple(TaskPart(task=task(name), repeats=times) for name, times in zip(NAMES, repeats, strict=False))
    return TaskMixture(parts=parts, **changes)


def packing_of(data: TaskMixture, *, num_sequences: int = 8, seq_len: int = 16, seed: int = 3) -> Packing:
    return Packing(mixture=data, tokenizer=TOKENIZER, seq_len=seq_len, num_sequences=num_sequences, seed=seed)


def splits_of(lengths: list[list[int]], seed: int = 0) -> list[TokenizedSplit]:
    """Return splits of random tokens of these lengths, in two shards each; half of an item is its prompt."""
    random, splits = np.random.default_rng(seed), []
    for one in lengths:
        shards = [one[: len(one) // 2], one[len(one) // 2 :]]
        splits.append(
            TokenizedSplit(
                tokens=[random.integers(1, 500, sum(shard), dtype=np.uint16) for shard in shards],
                offsets=[np.concatenate([[0], np.cumsum(shard)]).astype(np.int64) for shard in shards],
                prompt_lengths=[np.array(shard, np.int64) // 2 for shard in shards],
                end_of_text_id=0,
            )
        )
    return splits


def random_lengths(*numbers: int, most: int = 30, seed: int = 0) -> list[list[int]]:
    random = np.random.default_rng(seed)
    return [random.integers(2, most + 1, number).tolist() for number in numbers]


def rows_of(recipe: Packing, splits: list[TokenizedSplit]) -> PackedRows:
    return PackedRows(recipe, pack(recipe, [np.diff(split.offsets) for split in splits]), splits)


def items_in_order(recipe: Packing, splits: list[TokenizedSplit]) -> list[tuple[int, int]]:
    """Return (part, item) of every position of all epochs, in order."""
    sizes = [split.num_documents for split in splits]
    epochs = (epoch_order(recipe.mixture, sizes, seed=recipe.seed, epoch=e) for e in range(recipe.mixture.num_epochs))
    return [(int(part), int(item)) for parts, items in epochs for part, item in zip(parts, items, strict=True)]


# -- order ------------------------------------------------------------------------------------------------------------


@given(
    sizes=st.lists(st.integers(0, 40), min_size=1, max_size=3).filter(any),
    repeats=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4)),
    order=st.sampled_from(["shuffled", "sequential"]),
    seed=st.integers(0, 2**60),
)
def test_each_item_comes_exactly_repeats_times_in_every_epoch(
    sizes: list[int], repeats: tuple[int, int, int], order: str, seed: int
) -> None:
    data = mixture(*repeats[: len(sizes)], order=order)
    orders = []
    for epoch in range(2):
        parts, items = epoch_order(data, sizes, seed=seed, epoch=epoch)
        seen = Counter(zip(parts.tolist(), items.tolist(), strict=True))
        expected = {(part, item): repeats[part] for part, size in enumerate(sizes) for item in range(size)}
        assert seen == expected
        orders.append(list(zip(parts.tolist(), items.tolist(), strict=True)))
    if len({*orders[0]}) > 20:  # both orders are permutations, and another one each epoch
        assert orders[0] != orders[1] != sorted(orders[1])


def test_a_shuffle_mixes_the_parts_and_a_sequence_keeps_them_apart() -> None:
    parts, _ = epoch_order(mixture(1, 2, order="sequential"), [300, 300], seed=1, epoch=0)
    assert parts.tolist() == [0] * 300 + [1] * 600
    parts, _ = epoch_order(mixture(1, 2), [300, 300], seed=1, epoch=0)
    of_second = parts.reshape(9, 100).sum(axis=1)
    assert of_second.min() > 50  # each run of 100 positions holds about 67 of the second part
    assert of_second.max() < 84


# -- stream -----------------------------------------------------------------------------------------------------------


def stream_loop(recipe: Packing, splits: list[TokenizedSplit], stream: int) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
    """Yield the batches of one rank as nanochat describes them.

    Rank r walks the items r, r + W, …; their tokens go into a buffer; a batch takes B·T + 1 tokens off its front: inputs are
    the first B·T, targets the same shifted by one. It stops when the items are used up and the buffer is too short.
    """
    num_streams, batch = recipe.mixture.streams, recipe.num_sequences // recipe.mixture.streams
    needed = batch * recipe.seq_len + 1
    order = items_in_order(recipe, splits)
    buffer: deque[int] = deque()
    cursor = stream
    while True:
        while len(buffer) < needed and cursor < len(order):
            part, item = order[cursor]
            buffer.extend(splits[part].document(item).tolist())
            cursor += num_streams
        if len(buffer) < needed:
            return
        tokens = np.array([buffer.popleft() for _ in range(needed)])
        yield tokens[:-1].reshape(batch, -1), tokens[1:].reshape(batch, -1)


@pytest.mark.parametrize("order", ["shuffled", "sequential"])
@pytest.mark.parametrize("streams", [1, 8])
@pytest.mark.parametrize("num_epochs", [1, 2])
def test_a_stream_equals_a_plain_loop_over_a_buffer_token_for_token(streams: int, order: str, num_epochs: int) -> None:
    recipe = packing_of(mixture(1, 2, 1, order=order, streams=streams, num_epochs=num_epochs))
    splits = splits_of(random_lengths(300, 120, 77))
    rows = rows_of(recipe, splits)
    ranks = [list(stream_loop(recipe, splits, stream)) for stream in range(streams)]
    assert rows.num_steps == min(map(len, ranks)) > 20 * num_epochs
    for step in range(rows.num_steps):
        batch = rows.batch(step, target_only=False)
        assert np.array_equal(batch.input_ids, np.concatenate([rank[step][0] for rank in ranks]))
        assert np.array_equal(batch.targets, np.concatenate([rank[step][1] for rank in ranks]))
    with pytest.raises(ValueError, match=rf"expected a step below {rows.num_steps}, .* got step {rows.num_steps}\."):
        rows.batch(rows.num_steps, target_only=False)


RANK = """
import sys
from midstudy.train.ranks import joined
rank, meeting_point, num_tokens, needed = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
num_steps, left = 0, num_tokens
with joined(rank=rank, size=2, device="cpu", meeting_point=meeting_point) as ranks:
    while not ranks.any(left < needed):  # all ranks stop when the first one has too few tokens for a further batch
        left, num_steps = left - needed, num_steps + 1
print(num_steps)
"""


def test_the_last_step_is_the_one_that_two_real_ranks_agree_on(tmp_path: Path) -> None:
    recipe = packing_of(mixture(1, 2, streams=2))
    splits = splits_of(random_lengths(90, 41, most=60))
    order = items_in_order(recipe, splits)
    num_tokens = [sum(len(splits[part].document(item)) for part, item in order[rank::2]) for rank in range(2)]
    needed = 4 * 16 + 1
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(rank), f"file://{tmp_path}/meet", str(num_tokens[rank]), str(needed)],
            env={"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    agreed = [int(process.communicate()[0]) for process in processes]
    assert num_tokens[0] // needed != num_tokens[1] // needed  # alone, each would stop elsewhere
    assert agreed == [rows_of(recipe, splits).num_steps] * 2


def test_the_last_token_of_a_batch_is_a_target_only() -> None:
    recipe = packing_of(mixture(1), num_sequences=2, seq_len=4)
    splits = splits_of([[18, 9]])
    rows = rows_of(recipe, splits)
    order = [item for _, item in items_in_order(recipe, splits)]
    tokens = np.concatenate([splits[0].document(item) for item in order])
    assert rows.num_steps == 3
    first, second = rows.batch(0, target_only=False), rows.batch(1, target_only=False)
    assert first.input_ids.reshape(-1).tolist() == tokens[:8].tolist()
    assert first.targets[-1, -1] == tokens[8]
    assert second.input_ids[0, 0] == tokens[9]


# -- best fit and rows ------------------------------------------------------------------------------------------------


def placed_by_hand(sizes: list[int], capacity: int, buffer_items: int) -> list[list[int]]:
    """Place items as described: of the next `buffer_items`, always the longest that fits; a row ends if none fits."""
    arriving, rows = list(range(len(sizes))), []
    waiting: list[int] = []
    row: list[int] = []
    while True:
        while len(waiting) < buffer_items and arriving:
            waiting.append(arriving.pop(0))
        left = capacity - sum(sizes[item] for item in row)
        fitting = [item for item in waiting if sizes[item] <= left]
        if fitting:
            longest = max(sizes[item] for item in fitting)
            chosen = next(item for item in fitting if sizes[item] == longest)
            waiting.remove(chosen)
            row.append(chosen)
        elif waiting:
            rows.append(row)
            row = []
        else:
            return [*rows, row] if row else rows


@given(
    sizes=st.lists(st.integers(1, 20), max_size=60),
    capacity=st.integers(20, 33),
    buffer_items=st.integers(1, 12),
)
def test_best_fit_equals_a_search_through_the_whole_buffer(sizes: list[int], capacity: int, buffer_items: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "BUFFER_ITEMS", buffer_items)
        order, ends = packing.best_fit(np.array(sizes, np.int64), capacity)
    rows = [part.tolist() for part in np.split(order, ends)][: len(ends)]
    assert rows == placed_by_hand(sizes, capacity, buffer_items)
    assert sorted(order.tolist()) == list(range(len(sizes)))  # every item exactly once


@pytest.mark.parametrize("num_epochs", [1, 2])
@pytest.mark.parametrize("name", ["best_fit", "rows"])
def test_rows_hold_whole_items_and_then_padding_without_loss(name: str, num_epochs: int) -> None:
    recipe = packing_of(mixture(2, 1, packing=name, num_epochs=num_epochs), num_sequences=3, seq_len=24)
    splits = splits_of(random_lengths(101, 60, most=32))  # some are longer than 25 tokens
    order = items_in_order(recipe, splits)
    per_epoch = len(order) // num_epochs
    expected: list[list[tuple[int, int]]] = []
    for epoch in range(num_epochs):
        items = order[epoch * per_epoch : (epoch + 1) * per_epoch]
        sizes = [min(25, len(splits[part].document(item))) for part, item in items]
        placed = placed_by_hand(sizes, 25, 100) if name == "best_fit" else [[number] for number in range(len(items))]
        expected += [[items[number] for number in row] for row in placed]
    rows = rows_of(recipe, splits)
    assert rows.num_steps == len(expected) // 3
    padded = 0
    for step in range(rows.num_steps):
        batch = rows.batch(step, target_only=False)
        masked = rows.batch(step, target_only=True)
        assert np.array_equal(batch.input_ids, masked.input_ids)
        for row, items in enumerate(expected[3 * step : 3 * step + 3]):
            tokens = np.concatenate([splits[part].document(item)[:25] for part, item in items]).tolist()
            is_target = np.concatenate([splits[part].targets_of(item)[:25] for part, item in items]).tolist()
            width = batch.input_ids.shape[1]
            assert batch.input_ids[row].tolist() == (tokens + [0] * width)[:width]
            assert batch.targets[row].tolist() == tokens[1:] + [IGNORED] * (width + 1 - len(tokens))
            of_targets = [token if is_it else IGNORED for token, is_it in zip(tokens, is_target, strict=True)]
            assert masked.targets[row].tolist() == of_targets[1:] + [IGNORED] * (width + 1 - len(tokens))
            padded += width + 1 - len(tokens)
    assert padded > 0


def test_loss_on_targets_alone_masks_the_prompts_of_a_stream() -> None:
    recipe = packing_of(mixture(1), num_sequences=2, seq_len=8)
    splits = splits_of([[10] * 7])
    rows = rows_of(recipe, splits)
    order = [item for _, item in items_in_order(recipe, splits)]
    flags = np.concatenate([splits[0].targets_of(item) for item in order])
    assert flags.tolist() == ([False] * 5 + [True] * 5) * 7
    for step in range(rows.num_steps):
        whole, masked = (rows.batch(step, target_only=only) for only in (False, True))
        has_loss = flags[17 * step + 1 : 17 * step + 17].reshape(2, 8)
        assert np.array_equal(masked.targets, np.where(has_loss, whole.targets, IGNORED))


# -- lengths and counts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["stream", "best_fit", "rows"])
def test_the_batches_of_one_epoch_are_the_first_batches_of_two(name: str) -> None:
    data = mixture(1, 1, packing=name)
    splits = splits_of(random_lengths(150, 60))
    one, two = (rows_of(packing_of(replace(data, num_epochs=number)), splits) for number in (1, 2))
    assert two.num_steps >= 2 * one.num_steps > 20
    for step in range(one.num_steps):
        first, second = one.batch(step, target_only=False), two.batch(step, target_only=False)
        assert np.array_equal(first.input_ids, second.input_ids)
        assert np.array_equal(first.targets, second.targets)


def counted_by_hand(recipe: Packing, splits: list[TokenizedSplit]) -> tuple[list[list[int]], list[list[int]]]:
    """Return tokens with a next one and items begun, by step and part, from the pieces of every row."""
    rows = rows_of(recipe, splits)
    tokens, items = [[0] * len(splits)], [[0] * len(splits)]
    for step in range(rows.num_steps):
        read, begun = list(tokens[-1]), list(items[-1])
        for number in range(step * recipe.num_sequences, (step + 1) * recipe.num_sequences):
            pieces = list(rows._pieces(number))
            for index, (part, _, begin, end) in enumerate(pieces):
                is_first_row_of_stream = number % (recipe.num_sequences // recipe.mixture.streams) == 0
                # The first token of a further row is the last target of the row before: it was counted there.
                begun[part] += begin == 0 and (index > 0 or is_first_row_of_stream or recipe.mixture.packing != "stream")
                read[part] += end - begin - (index == len(pieces) - 1)
        tokens.append(read)
        items.append(begun)
    return tokens, items


@pytest.mark.parametrize("changes", [{"streams": 1}, {"streams": 4}, {"packing": "best_fit"}, {"packing": "rows"}], ids=str)
def test_counts_are_those_of_the_rows_and_survive_the_disk(changes: dict[str, Any], tmp_path: Path) -> None:
    recipe = packing_of(mixture(1, 3, order="sequential", **changes))
    splits = splits_of(random_lengths(130, 50, most=40))
    packed = pack(recipe, [np.diff(split.offsets) for split in splits])
    counts = count(recipe, packed)
    tokens, items = counted_by_hand(recipe, splits)
    assert counts.tokens.tolist() == tokens
    assert counts.items.tolist() == items
    save_packed(tmp_path, packed, counts)
    again, rows = read_counts(tmp_path, recipe.mixture), PackedRows(recipe, read_packed(tmp_path), splits)
    assert again.tokens.tolist() == tokens
    assert again.items.tolist() == items
    for step in (0, 3):
        first, second = (one.batch(step, target_only=True) for one in (rows, rows_of(recipe, splits)))
        assert first.targets.tolist() == second.targets.tolist()


def test_items_past_the_last_batch_are_known() -> None:
    recipe = packing_of(mixture(1, packing="rows"), num_sequences=4)
    packed: Packed = pack(recipe, [np.full(10, 7)])
    assert first_steps(recipe, packed).tolist() == [0] * 4 + [1] * 4 + [2] * 2
    assert count(recipe, packed).items.tolist() == [[0], [4], [8]]
    recipe = packing_of(mixture(1), num_sequences=1, seq_len=9)
    packed = pack(recipe, [np.full(4, 7)])  # 28 tokens: two steps of 10, then 8 tokens, which begin in the third item
    assert first_steps(recipe, packed).tolist() == [0, 0, 1, 2]


def test_by_items_a_shuffle_is_near_the_share_of_steps_and_a_sequence_is_not() -> None:
    """The largest gap of a shuffle falls with the root of the number of items; that of a sequence does not fall."""

    def gap(order: str, num_items: int, seed: int = 0) -> float:
        recipe = packing_of(mixture(1, 1, order=order), seed=seed)
        return count(recipe, pack(recipe, [np.full(num_items, 4), np.full(num_items, 40)])).largest_gap

    few, many = (np.mean([gap("shuffled", number, seed) for seed in range(20)]) for number in (200, 3200))
    assert many < 0.015
    assert 3 < few / many < 6
    for number in (200, 3200):
        assert gap("sequential", number) == pytest.approx(0.5 - 4 / 44, abs=0.02)
