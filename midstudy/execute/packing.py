"""The packing stage: arrange the items of a mixture of tasks in rows; count what each step reads and what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from midstudy.data.packed_counts import count, first_steps
from midstudy.data.packed_rows import save_packed
from midstudy.data.packing import Packed, pack
from midstudy.data.tally import Tally
from midstudy.data.text_tally import logged
from midstudy.data.tokens import TokenizedSplit
from midstudy.execute.work import Work
from midstudy.recipe.packing import Packing


def packing_stage(recipe: Packing, work: Work) -> dict[str, Any]:
    """Write the rows of a packing and what each step reads; return the stage's metrics.

    `largest_gap` is that between the share of the items and the share of the steps; `padding_share` is of the inputs.

    Raises:
        StoreError: a token stage is unfinished or changed.
        ValueError: the items do not fill one batch, or almost none of a task's is used.
    """
    splits = [work.split(task, recipe.tokenizer, "train") for task in recipe.mixture.tasks]
    packed = pack(recipe, [np.diff(split.offsets) for split in splits])
    if len(packed.rows) < recipe.num_sequences:
        raise ValueError(
            f"packing of {recipe.mixture.name}: expected items that fill a batch of {recipe.num_sequences} × "
            f"{recipe.seq_len} tokens, got {len(packed.item):,} items with {int(packed.starts[-1]):,} tokens. Lower "
            "num_sequences, seq_len or streams, or add items."
        )
    counts = count(recipe, packed)
    tallies = packing_tallies(recipe, packed, splits)
    for tally in tallies:
        tally.require_enough()
    save_packed(work.folder, packed, counts)
    num_inputs = counts.num_steps * recipe.num_sequences * recipe.seq_len
    return {
        "packed_steps": counts.num_steps,
        "packed_items": dict(zip(counts.names, counts.items[-1].tolist(), strict=True)),
        "packed_tokens": dict(zip(counts.names, counts.tokens[-1].tolist(), strict=True)),
        "padding_share": 1 - int(counts.tokens[-1].sum()) / num_inputs,
        "largest_gap": counts.largest_gap,
        "left_out": {f"train {tally.data}": logged(tally) for tally in tallies},
    }


def packing_tallies(recipe: Packing, packed: Packed, splits: Sequence[TokenizedSplit]) -> list[Tally]:
    """Return what the steps of a packing use of each task and what they leave out; repeats and epochs count separately."""
    num_steps = len(packed.rows) // recipe.num_sequences
    is_read = first_steps(recipe, packed) < num_steps
    tallies = []
    for number, (task, split) in enumerate(zip(recipe.mixture.tasks, splits, strict=True)):
        targets = split.num_targets()
        seen = targets if recipe.mixture.packing == "stream" else split.num_targets(recipe.seq_len + 1)
        positions, used = packed.item[packed.part == number], packed.item[(packed.part == number) & is_read]
        num_left = len(positions) - len(used)
        tally = Tally(
            data=task.name,
            split="train",
            use="packing",
            unit="items",
            used=len(used),
            left_out={"past_last_batch": num_left} if num_left else {},
            limit=recipe.seq_len,
            target_tokens=int(targets[positions].sum()),
            target_tokens_seen=int(seen[used].sum()),
            num_cut=int((seen < targets)[used].sum()),
            num_without_target=int((seen[used] == 0).sum()),
        )
        tallies.append(tally)
    return tallies
