"""Mixtures of tasks: exact in items, where a mixture of corpora is exact in tokens.

In an epoch, each item of a part comes exactly `repeats` times. The items are packed into the rows of batches by a stage of
their own (`packing.py`), so a batch is a function of (recipe, step).

Source: karpathy/nanochat at 92c6654, `tasks/common.py` (TaskMixture, TaskSequence) and `scripts/mid_train.py`; best fit
from 43c29dd. The shuffle is a keyed permutation, not Python's `Random(42)`.
"""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe import versions
from midstudy.recipe.canonical import identify, label_field
from midstudy.recipe.data import Task
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_positive
from midstudy.recipe.plain import hold_plain_numbers

ORDERS = ("shuffled", "sequential")
PACKINGS = ("stream", "best_fit", "rows")


@dataclass(frozen=True, kw_only=True)
class TaskPart:
    """A task whose items come `repeats` times in each epoch of a mixture."""

    task: Task
    repeats: int = 1

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_kind("task_mixture.task", self.task, Task, expected="a Task")
        require_positive(f"task_mixture.{self.task.name}.repeats", self.repeats, unit="times an epoch")

    def __str__(self) -> str:
        return self.task.name + (f" ×{self.repeats}" if self.repeats > 1 else "")


@dataclass(frozen=True, kw_only=True)
class TaskMixture:
    """Tasks as the data of one phase.

    With order `shuffled`, the items of an epoch are permuted together; with `sequential`, the parts follow each other, and
    the items are permuted within each part.

    Packing says how items fill the rows of a batch, (`num_sequences`, `seq_len`):

    - `stream` concatenates the items and cuts the rows from them. With `streams` W, stream w reads the items w, w + W, … of
      the order and fills rows [w·B/W, (w + 1)·B/W) of each batch of B: nanochat's order on W ranks, as data. A step takes
      B/W · `seq_len` + 1 tokens of each stream; the last of them is a target only.
    - `best_fit` keeps the next 100 items and repeatedly places the longest that fits into the rest of a row of `seq_len` + 1
      tokens; if none fits, the row is padded. The last items of an epoch are placed before the first of the next.
    - `rows` places one item in a row and pads it.

    The last two truncate an item to `seq_len` + 1 tokens. Padding has no loss.

    `num_epochs` is the length that the packing covers. It is part of the packing's id, and of no state's: the batches of one
    epoch are the first batches of two.
    """

    parts: tuple[TaskPart, ...]
    order: str = "shuffled"
    packing: str = "stream"
    streams: int = 1
    num_epochs: int = label_field(default=1)
    packing_version: int = versions.PACKING

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        path = "task_mixture"
        require_kind(f"{path}.parts", self.parts, tuple, expected="a tuple of TaskPart")
        for part in self.parts:
            require_kind(f"{path}.parts", part, TaskPart, expected="a TaskPart")
        names = [part.task.name for part in self.parts]
        if not names or min(len(set(names)), len({identify(part.task) for part in self.parts})) < len(names):
            raise RecipeError(
                f"{path}.parts",
                expected="at least one task, each once and with its own name",
                got=", ".join(names) or "nothing",
                fix="repeats=2 gives the items of a task twice an epoch.",
            )
        require_choice(f"{path}.order", self.order, ORDERS)
        require_choice(f"{path}.packing", self.packing, PACKINGS)
        require_positive(f"{path}.streams", self.streams, unit="streams")
        require_positive(f"{path}.num_epochs", self.num_epochs, unit="epochs")
        if self.streams > 1 and self.packing != "stream":
            raise RecipeError(f"{path}.streams", expected=f"1 with packing {self.packing}", got=self.streams)

    def require_rows(self, path: str, num_sequences: int) -> None:
        """Raise `RecipeError` unless batches of `num_sequences` rows can be divided among the streams."""
        if num_sequences % self.streams:
            expected = f"a multiple of the {self.streams} streams of the task mixture"
            raise RecipeError(path, expected=expected, got=num_sequences)

    @property
    def tasks(self) -> tuple[Task, ...]:
        return tuple(part.task for part in self.parts)

    @property
    def is_unpacked(self) -> bool:
        """Whether a sequence of a phase holds a single item."""
        return self.packing == "rows"

    @property
    def name(self) -> str:
        """The tasks with their repeats, for labels and messages."""
        return " + ".join(map(str, self.parts))

    def __str__(self) -> str:
        streams = f", {self.streams} streams" if self.streams > 1 else ""
        return f"{self.name} ({self.order}, packing {self.packing}{streams})"
