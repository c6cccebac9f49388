"""Divide the tokenisation of a large source into parts that run as jobs of their own, and price them.

Files are measured in groups of consecutive ones, the shards are laid out once, each part writes a run of consecutive shards,
and the token stage joins them: `execute/parts.py`. How many parts there are is placement. It changes no byte and no id of
the token stage.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

from midstudy.data.digests import file_digest
from midstudy.data.shards import SHARD_BYTES
from midstudy.data.size import ITEM_BYTES
from midstudy.data.source_files import SourceFiles, files_of
from midstudy.data.splits import CORPUS_SHARE, TASK_SHARE
from midstudy.plan.cost import (
    DATA_STAGE_S,
    FILE_BYTES_PER_S,
    LAYOUT_BYTES_PER_S,
    MEASURING_BYTES_PER_S,
    TOKEN_BYTES_PER_TEXT_BYTE,
    TOKENISING_BYTES_PER_S,
)
from midstudy.recipe.data import Corpus, Dataset, Source, Task, TokenizedData
from midstudy.recipe.parts import DocumentSizes, ShardLayout, TokensPart
from midstudy.recipe.stage import Stage, stage_id

PART_BYTES = 2**30
"""Text of a part: some minutes of one core, so that a killed part loses little and starting it costs little."""

_READ_AHEAD = 1.25
"""Text to measure for each byte of a limit, because sizes of text are estimated. If it is not enough, the stage that lays
out the shards measures the rest."""


@dataclass(frozen=True, kw_only=True)
class Divided:
    """A token stage in parts: the stages before it, and the expected seconds of one core of each step.

    `text_bytes` of text become `token_bytes` of tokens, at `bytes_per_s` of text for each CPU second. `stored_bytes` is the
    size of the `num_files` files, which are read `num_readings` times: to measure, to tokenise, and again for each split
    that is carved from train. From the Hub they are streamed and not kept.
    """

    tokens_id: str
    data: str
    stages: tuple[Stage, ...]
    part_ids: tuple[str, ...]
    num_files: int
    stored_bytes: int
    num_readings: int
    text_bytes: float
    token_bytes: int
    bytes_per_s: float
    rate_is_measured: bool
    measuring_s: float
    layout_s: float
    tokenising_s: float
    joining_s: float
    is_remote: bool

    @property
    def cpu_s(self) -> float:
        """Expected seconds of one core for everything."""
        return self.measuring_s + self.layout_s + self.tokenising_s + self.joining_s

    def wall_s(self, num_jobs: int) -> float:
        """Expected seconds with this many jobs of one core at a time, without queueing and starting."""
        at_a_time = min(num_jobs, len(self.part_ids))
        return (self.measuring_s + self.tokenising_s) / at_a_time + self.layout_s + self.joining_s


def is_large(text_bytes: float) -> bool:
    """Return whether a data set with this much text is worth two parts."""
    return text_bytes >= 2 * PART_BYTES


def divide(data: TokenizedData, tokenizer_id: str, *, text_bytes: float, bytes_per_s: float | None) -> Divided | None:
    """Return the parts of a token stage; `None` if its source has no files, or too few, or cannot be listed.

    Nothing is read but, for the Hub, the list of its files.

    Args:
        text_bytes: expected text up to the data set's limit.
        bytes_per_s: bytes of text that one core tokenised per second; `None` if no part has been measured.
    """
    measured_bytes_per_s, bytes_per_s = bytes_per_s, bytes_per_s or TOKENISING_BYTES_PER_S
    try:
        source_files = files_of(data.data)
    except ValueError:  # the stage reports it
        return None
    if source_files is None:
        return None
    measured = _measured_files(data.data, source_files)
    files = source_files.files[: measured.stop]
    num_parts = min(len(measured), math.ceil(text_bytes / PART_BYTES))
    if num_parts < 2:
        return None
    name = data.data.name
    sizes = _sizes_stages(data.data, source_files, measured, num_parts)
    layout = ShardLayout(data=data.data, shard_bytes=SHARD_BYTES)
    read_bytes = sum(file.text_bytes for file in files)
    layout_s = DATA_STAGE_S + read_bytes / LAYOUT_BYTES_PER_S
    laid_out = Stage(
        id=stage_id(layout),
        label=f"shards {name}",
        recipe=layout,
        parents=tuple(stage.id for stage in sizes),
        cost_s=layout_s,
        role="data",
        data=name,
    )
    token_bytes = int(TOKEN_BYTES_PER_TEXT_BYTE * text_bytes)
    # Every split that is carved from train reads all of it. A part also begins and ends inside files: half of one before it
    # and half of one after it are read without being tokenised.
    num_readings = 1 + len(source_files.carved)
    reading_s = read_bytes * (num_readings / num_parts + 1 / len(files)) / MEASURING_BYTES_PER_S
    parts = tuple(
        _part(
            TokensPart(tokenized=data, shard_bytes=SHARD_BYTES, number=number, num_parts=num_parts),
            parents=(tokenizer_id, laid_out.id),
            cost_s=DATA_STAGE_S + reading_s + text_bytes / num_parts / bytes_per_s,
            disk_bytes=token_bytes // num_parts,
        )
        for number in range(num_parts)
    )
    return Divided(
        tokens_id=stage_id(data),
        data=name,
        stages=(*sizes, laid_out, *parts),
        part_ids=tuple(stage.id for stage in parts),
        num_files=len(files),
        stored_bytes=sum(file.num_bytes for file in files),
        num_readings=1 + num_readings,
        text_bytes=text_bytes,
        token_bytes=token_bytes,
        bytes_per_s=bytes_per_s,
        rate_is_measured=measured_bytes_per_s is not None,
        measuring_s=sum(stage.cost_s for stage in sizes),
        layout_s=layout_s,
        tokenising_s=sum(stage.cost_s for stage in parts),
        joining_s=2 * token_bytes / FILE_BYTES_PER_S,  # digested once to be checked and once for the record
        is_remote=isinstance(data.data.source, Source) and data.data.source.kind == "hub",
    )


def _part(recipe: TokensPart, *, parents: tuple[str, ...], cost_s: float, disk_bytes: int) -> Stage:
    name = recipe.tokenized.data.name
    label = f"tokens {name}, part {recipe.number + 1} of {recipe.num_parts}"
    return Stage(
        id=stage_id(recipe),
        label=label,
        recipe=recipe,
        parents=parents,
        cost_s=cost_s,
        disk_bytes=disk_bytes,
        role="data",
        data=name,
    )


def _measured_files(data: Dataset, source_files: SourceFiles) -> range:
    """Return the numbers of the files to measure: all, or the first ones if a limit leaves the others out.

    Files of dev and test follow those of train: where a limit leaves train files out, the stage that lays out the shards
    measures them, up to the limit.
    """
    if isinstance(data, Corpus):
        limit_bytes = data.max_bytes
    else:
        limit_bytes = None if data.max_items is None else data.max_items * ITEM_BYTES
    if limit_bytes is None:
        return range(len(source_files.files))
    share = TASK_SHARE if isinstance(data, Task) else CORPUS_SHARE
    needed_bytes = _READ_AHEAD * limit_bytes / (share if source_files.carved else 1.0)
    train = [file.text_bytes for file in source_files.files if file.split == "train"]
    for number, read_bytes in enumerate(accumulate(train), start=1):
        if read_bytes >= needed_bytes:
            return range(number)
    return range(len(source_files.files))


def _sizes_stages(data: Dataset, source_files: SourceFiles, measured: range, num_parts: int) -> list[Stage]:
    """Return the stages that measure files, in groups of consecutive files with about equally much text."""
    unlimited = replace(data, max_bytes=None) if isinstance(data, Corpus) else replace(data, max_items=None)
    is_local = isinstance(data.source, Source) and data.source.kind == "files"
    groups = balanced([source_files.files[number].text_bytes for number in measured], num_parts)
    stages = []
    for place, group in enumerate(groups, start=1):
        files = source_files.files[group.start : group.stop]
        recipe = DocumentSizes(
            data=unlimited,
            first_file=group.start,
            stop_file=group.stop,
            digests=tuple(file_digest(Path(file.name)) for file in files) if is_local else (),
        )
        stages.append(
            Stage(
                id=stage_id(recipe),
                label=f"sizes {data.name}, part {place} of {len(groups)}",
                recipe=recipe,
                parents=(),
                cost_s=DATA_STAGE_S + sum(file.text_bytes for file in files) / MEASURING_BYTES_PER_S,
                role="data",
                data=data.name,
            )
        )
    return stages


def balanced(sizes: Sequence[float], num_groups: int) -> list[range]:
    """Divide a sequence of sizes into at most `num_groups` runs of about equal sums; no run is empty.

    Each item belongs to the run in which its middle lies.
    """
    total = sum(sizes) or 1.0
    runs: list[int] = []
    before = 0.0
    for size in sizes:
        runs.append(min(num_groups - 1, int((before + size / 2) / total * num_groups)))
        before += size
    starts = [place for place in range(len(runs)) if place == 0 or runs[place] != runs[place - 1]]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(runs)], strict=True)]
