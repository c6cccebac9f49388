"""The text of a bridging study: general corpus, placebo, specialists and tasks from the `--data` arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from midstudy.data.data_args import DataChoice
from midstudy.recipe import Corpus, Task, placebo

SPECIALISTS = ("code", "math", "instruction", "qa", "hqweb")

TASKS = {  # name: folder of a directory source
    "pycode": "sft/pycode",
    "word_problems": "sft/gsm8k",
    "science_qa": "sft/sciqa",
    "long_form": "sft/dialogue",
}

PLACEBO = "placebo"


@dataclass(frozen=True, kw_only=True)
class Text:
    """The corpora and tasks of a bridging study. `general` and `placebo` are disjoint parts of one corpus."""

    general: Corpus
    placebo: Corpus
    specialists: Mapping[str, Corpus]
    tasks: Mapping[str, Task]

    @classmethod
    def of(
        cls,
        data: DataChoice,
        *,
        general_bytes: int | None = 6_000_000,
        specialist_bytes: int | None = 3_000_000,
        task_items: int | None = 480,
    ) -> Text:
        """Return the text that `--data` names, limited to some bytes of each corpus and items of each task."""
        general, without_effect = placebo(data.corpus("general", max_bytes=general_bytes), name=PLACEBO)
        return cls(
            general=general,
            placebo=without_effect,
            specialists={name: data.corpus(name, max_bytes=specialist_bytes) for name in SPECIALISTS},
            tasks={name: data.task(name, folder=folder, max_items=task_items) for name, folder in TASKS.items()},
        )

    @property
    def corpora(self) -> tuple[Corpus, ...]:
        """The general corpus and the specialists, on which the tokenizer is trained."""
        return (self.general, *self.specialists.values())

    def mixed_in(self, mix: str) -> Corpus:
        """Return the corpus of a mix, which may be the placebo."""
        return self.placebo if mix == PLACEBO else self.specialists[mix]
