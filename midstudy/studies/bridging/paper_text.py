"""The text of the paper by the names of its sets, declared until `--data` gives it; its tokenizer, and its tasks' sizes.

Pools in tokens: arXiv 2510.14865 v1, Table 1; sets, shares and configurations: nightingal3/midtraining. No commit of a set
is recorded there, so none is written here: a plan needs none, and a run is refused until every one is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from midstudy.data.data_args import DataChoice
from midstudy.data.release import released_tokenizer
from midstudy.recipe import Corpus, Task
from midstudy.recipe.data import Dataset, ReleasedTokenizer, declared, sources_of
from midstudy.studies.bridging.text import SPECIALISTS, TASKS

BYTES_PER_TOKEN = 4
"""Assumed: the paper states tokens."""

ITEM_BYTES = 500
"""Assumed bytes of an item of a task."""


@dataclass(frozen=True)
class Declared:
    """A corpus of `size` 10⁹ tokens, or a task of `size` train items, by name; `options` give it to a run."""

    name: str
    part: str
    size: float
    options: tuple[str, ...]

    def said(self) -> str:
        return " ".join(f"--data {self.name}={option}" for option in self.options)


CORPORA = (
    # The 128.0 B tokens of the training, each read once; how much of C4 the authors prepared is not stated.
    Declared("general", "allenai/c4:en", 128.0, ("hub:allenai/c4:en@COMMIT",)),
    Declared("code", "bigcode/starcoderdata", 196, ("hub:bigcode/starcoderdata@COMMIT,text=content",)),
    # The authors draw every prepared shard equally often. How many shards each set has is not stated: a third is assumed.
    Declared(
        "math",
        "TIGER-Lab/MathInstruct + TIGER-Lab/MATH-plus + nvidia/OpenMathInstruct-1",
        12,
        (
            "hub:TIGER-Lab/MathInstruct@COMMIT,prompt=instruction,completion=output,share=1/3",
            "hub:TIGER-Lab/MATH-plus@COMMIT,prompt=instruction,completion=output,share=1/3",
            "hub:nvidia/OpenMathInstruct-1@COMMIT,prompt=question,completion=generated_solution,share=1/3",
        ),
    ),
    Declared("instruction", "FLAN", 3.5, ("FOLDER",)),
    # Weights 0.15, 0.03, 0.015 and 0.005 of all tokens, which are these shares of the mix's 20 %.
    Declared(
        "qa",
        "KnowledgeQA (MiniCPM's, without StackOverflow)",
        9.6,
        ("FOLDER_4,share=0.75", "FOLDER_1,share=0.15", "FOLDER_2,share=0.075", "FOLDER_3,share=0.025"),
    ),
    Declared("hqweb", "allenai/dolmino-mix-1124:dclm", 51, ("hub:allenai/dolmino-mix-1124:dclm@COMMIT",)),
)
"""General text and the specialists, in the order of Table 1. FLAN and KnowledgeQA are files of the authors, not sets."""

TASK_SETS = (
    # An empty prompt and a whole function as completion, which no row of the set is.
    Declared("pycode", "Nan-Do/code-search-net-python", 10_000, ("FOLDER",)),
    Declared("word_problems", "openai/gsm8k:main", 7_473, ("hub:openai/gsm8k:main@COMMIT",)),
    # Rows question, support, answer: the set calls the answer correct_answer, and declared fields have no support.
    Declared("science_qa", "allenai/sciq", 11_679, ("FOLDER",)),
    # The first turn as prompt, the later ones as target; rows of one turn have no target.
    Declared("long_form", "GAIR/lima", 1_000, ("FOLDER",)),
)

MAX_ITEMS = 10_000
"""The authors keep the first 10,000 items of each split of PyCode; the others have about as many or fewer, and are whole."""

TOKENIZER = "EleutherAI/pythia-1b"
"""The release whose tokenizer all sizes share."""


@dataclass(frozen=True, kw_only=True)
class PaperText:
    """The paper's text. `num_items` are the train items of each task, as declared."""

    general: Corpus
    specialists: Mapping[str, Corpus]
    tasks: Mapping[str, Task]
    num_items: Mapping[str, int]

    @classmethod
    def of(cls, data: DataChoice, *, scale: float = 1.0) -> PaperText:
        """Return the text that `--data` names, and the paper's sets as declared text in place of what it does not name.

        Args:
            scale: share of the paper's tokens; tasks keep the items that give the same share of their training.
        """
        corpora = {
            one.name: data.corpus(
                one.name,
                max_bytes=None,
                otherwise=declared(one.part, num_bytes=round(one.size * 1e9 * BYTES_PER_TOKEN), note=one.said()),
            )
            for one in CORPORA
        }
        num_items = {one.name: max(1, round(min(one.size, MAX_ITEMS) * scale**0.75)) for one in TASK_SETS}
        num_items |= {one.name: round(one.size) for one in TASK_SETS if scale == 1}
        tasks = {
            one.name: data.task(
                one.name,
                folder=TASKS[one.name],
                max_items=(MAX_ITEMS if one.name == "pycode" else None) if scale == 1 else num_items[one.name],
                otherwise=declared(one.part, num_bytes=round(one.size) * ITEM_BYTES, note=one.said()),
            )
            for one in TASK_SETS
        }
        specialists = {name: corpora[name] for name in SPECIALISTS}
        return cls(general=corpora["general"], specialists=specialists, tasks=tasks, num_items=num_items)

    def notes(self) -> list[str]:
        """Return what a reader of the plan should know of text that is only declared."""
        known = {one.name: f"{one.name} {one.size:g} B tokens ({one.part})" for one in CORPORA}
        known |= {one.name: f"{one.name} {one.size:,.0f} items ({one.part})" for one in TASK_SETS}
        held: list[Dataset] = [self.general, *self.specialists.values(), *self.tasks.values()]
        names = [known[one.name] for one in held if any(part.kind == "declared" for part in sources_of(one.source))]
        if not names:
            return []
        num_tokens = sum(one.size for one in CORPORA)
        return [
            f"sizes are declared, not read: {', '.join(names)}; {BYTES_PER_TOKEN} bytes a token assumed",
            f"token files take {2 * num_tokens:,.0f} GB beside the checkpoints if every pool is whole, at 2 bytes a token",
        ]


def paper_tokenizer(argument: str) -> ReleasedTokenizer:
    """Return Pythia's tokenizer; declared if `argument`, a folder or `hub:OWNER/NAME@COMMIT`, is empty.

    Raises:
        ValueError: the tokenizer's file cannot be read.
    """
    if argument:
        return released_tokenizer(argument, end_of_text="<|endoftext|>")
    note = f"--set tokenizer=hub:{TOKENIZER}@COMMIT, or a folder with tokenizer.json"
    source = declared(TOKENIZER, num_bytes=0, note=note)
    return ReleasedTokenizer(name="pythia-1b", digest="declared", vocab_size=50_277, source=source)
