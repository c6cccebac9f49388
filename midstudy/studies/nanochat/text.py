"""The text of a nanochat study: general text for the base, and conversations, from the `--data` arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Corpus, Task
from midstudy.recipe.task_mixture import TaskPart

CONVERSATIONS = ("chat", "choices", "calculation", "identity", "spelling", "spelling_bee", "sums")
"""What trains: dialogue, questions with four choices, word problems with a calculator, who the assistant is, spelling,
counting letters, and sums. The source has no sums; they are what a model of this size can calculate. In this order when one
task follows another."""

CONTROLS = ("mmlu",)
"""What only tests: development questions of MMLU, which such a model answers by chance."""

PROMPTS = "prompts"
"""Four prompts whose replies are read."""

REPEATS = {"identity": 2}
"""How often an item comes in an epoch, where that is not once (karpathy/nanochat `mid_train.py`)."""


@dataclass(frozen=True, kw_only=True)
class Text:
    """The corpora and tasks of a nanochat study."""

    general: Corpus
    tasks: Mapping[str, Task]
    tuning: Mapping[str, Task]
    """The first items of each task, for SFT."""

    @classmethod
    def of(cls, data: DataChoice, *, rows: Mapping[str, int], tuning_rows: Mapping[str, int], general_bytes: int) -> Text:
        """Return the text that `--data` names.

        Args:
            rows: the number of train items of each of `CONVERSATIONS` in midtraining.
            tuning_rows: the same in SFT.
        """
        names = (*CONVERSATIONS, *CONTROLS, PROMPTS)
        tasks = {name: data.task(name, folder=name, max_items=rows.get(name)) for name in names}
        tuning = {
            name: Task(name=f"{name} for SFT", source=tasks[name].source, max_items=most)
            for name, most in tuning_rows.items()
        }
        return cls(general=data.corpus("general", max_bytes=general_bytes), tasks=tasks, tuning=tuning)

    @property
    def parts(self) -> tuple[TaskPart, ...]:
        """The parts of midtraining."""
        return tuple(
            TaskPart(task=self.tasks[name], repeats=REPEATS.get(name, 1)) for name in CONVERSATIONS if name in self.tasks
        )

    def parts_with(self, rows: Mapping[str, int], *, repeats: Mapping[str, int], name: str) -> tuple[TaskPart, ...]:
        """Return the parts of a mixture with other numbers of train items.

        Args:
            repeats: how often an item comes in an epoch, where that is not once.
            name: follows the name of each task.
        """
        return tuple(
            TaskPart(task=replace(self.tasks[task], name=f"{task} {name}", max_items=most), repeats=repeats.get(task, 1))
            for task, most in rows.items()
        )
