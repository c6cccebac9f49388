"""A study's manifest, typed: `run` freezes it in the store, and later commands read it.

It refers to stages by id and to arms by row, so that no command after `run` needs the experiment file. `plan/manifest.py`
builds it from a plan; `store/study_manifest.py` writes and reads it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from midstudy.recipe.factors import Value
from midstudy.recipe.study import Claim

SCHEMA = 2
"""Version of the manifest's fields. A study of another version must be run again, which reuses its finished stages."""


@dataclass(frozen=True, kw_only=True)
class StageEntry:
    """A stage without its recipe, which the store holds under the stage id. For the fields see `recipe.stage.Stage`."""

    kind: str
    role: str
    label: str
    parents: tuple[str, ...]
    start_from: str | None
    continues_trunk: bool
    keeps_optimizer: bool
    num_steps: int
    num_tokens: int
    cost_s: float
    disk_bytes: int
    factors: Mapping[str, Value]
    model: str
    step: int | None
    data: str
    split: str


@dataclass(frozen=True, kw_only=True)
class ColumnEntry:
    """A measured column: the metric of its evaluations, which direction is better, and what they read.

    `data` is empty if the arms are measured on different data sets, `title` if the column has no name but its own.
    """

    metric: str
    better: str
    is_curve: bool
    data: str
    split: str
    title: str = ""


@dataclass(frozen=True, kw_only=True)
class PhaseEntry:
    """A part of an arm's training with constant shares: its steps, the share of each data set, and the learning rates at
    some of its steps, between which they are about linear.

    Steps count the whole run, including the runs that its initial weights come from. There are no rates while a choice that
    decides them is open.
    """

    start_step: int
    stop_step: int
    shares: Mapping[str, float]
    rates: tuple[tuple[int, float], ...]


@dataclass(frozen=True, kw_only=True)
class ArmEntry:
    """A row of the table of arms.

    `measures` holds the evaluation stages of each measured column: several for a curve, otherwise one. `tokens` counts the
    tokens drawn from each corpus, `items` the items of each task. `dose` is each data set's share of the sum of learning
    rates, `None` if it depends on a choice. `flops` is the cost of training this arm alone. `choices` holds the decision
    stages that the arm's learning rates depend on, by the name of the choice. `reads` holds, for each task, the row of
    `Manifest.uses` with what the last phase that reads it takes from it.
    """

    factors: Mapping[str, Value]
    state: str
    measures: Mapping[str, tuple[str, ...]]
    num_steps: int
    tokens: Mapping[str, int]
    items: Mapping[str, int]
    dose: Mapping[str, float | None]
    flops: float
    choices: Mapping[str, str] = field(default_factory=dict)
    reads: Mapping[str, int] = field(default_factory=dict)
    phases: tuple[PhaseEntry, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ComparisonEntry:
    """A comparison; `arms` and `references` are rows of the table of arms."""

    name: str
    title: str
    arms: tuple[int, ...]
    references: tuple[int, ...]
    columns: tuple[str, ...]
    match: tuple[str, ...]
    along: str | None


@dataclass(frozen=True, kw_only=True)
class CountsEntry:
    """A data set whose tokens are counted, and the stage that counts them."""

    data: str
    is_task: bool
    stage: str


@dataclass(frozen=True, kw_only=True)
class MixEntry:
    """A mixture whose proximity is measured: the share of each corpus, and the reference corpus of its advantage."""

    name: str
    shares: Mapping[str, float]
    reference: str
    factors: Mapping[str, Value]


@dataclass(frozen=True, kw_only=True)
class Use:
    """What training or an evaluation reads from a split of the data stage `tokens`.

    If `use` is `prompts`, rollouts read it, and `seq_len` is the longest prompt.
    """

    tokens: str
    data: str
    is_task: bool
    split: str
    use: str
    seq_len: int
    target_only: bool
    max_sequences: int | None = None


@dataclass(frozen=True, kw_only=True)
class StepsEntry:
    """Training steps of the whole study: as planned, their lower bound, and with every arm trained alone."""

    planned: int
    lower_bound: int
    without_sharing: int


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A frozen study. For `seeds` and `looks` see `recipe.study.Study`."""

    schema: int
    name: str
    question: str
    notes: tuple[str, ...]
    report: str
    command: str
    seeds: tuple[str, ...]
    columns: Mapping[str, ColumnEntry]
    arms: tuple[ArmEntry, ...]
    comparisons: tuple[ComparisonEntry, ...]
    claims: tuple[Claim, ...]
    stages: Mapping[str, StageEntry]
    counts: tuple[CountsEntry, ...]
    mixes: tuple[MixEntry, ...]
    uses: tuple[Use, ...]
    sources: Mapping[str, str]
    steps: StepsEntry
    looks: tuple[int, ...] = ()

    @cached_property
    def factor_names(self) -> tuple[str, ...]:
        """The factors of the arms, in the order of the table's columns."""
        return tuple(self.arms[0].factors) if self.arms else ()

    @property
    def evaluations(self) -> set[str]:
        """The stages whose results are the values of arms."""
        return {stage for arm in self.arms for stages in arm.measures.values() for stage in stages}

    def title_of(self, column: str) -> str:
        """Return what a reader calls a column: its title, or its name with spaces."""
        return self.columns[column].title or column.replace("_", " ")

    def comparison(self, name: str) -> ComparisonEntry:
        """Return the comparison of this name.

        Raises:
            KeyError: the study has no comparison of this name.
        """
        for comparison in self.comparisons:
            if comparison.name == name:
                return comparison
        raise KeyError(name)
