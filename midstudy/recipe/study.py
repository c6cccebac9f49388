"""A study: a named set of arms, and what one arm is.

An arm is one cell of the grid as the analysis sees it. Its factors (size, mix, weight, start step, task, seeds) are the
columns of the tidy table and the parameters in MLflow; its curriculum and evaluations are what is run. Arms that share a
past share its stages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import Curriculum, State
from midstudy.recipe.data import Dataset, Tokenizer
from midstudy.recipe.errors import RecipeError, require_choice, require_name, require_number, require_text, require_whole
from midstudy.recipe.measure import Evaluation, TokenCounts
from midstudy.recipe.plain import hold_plain_numbers
from midstudy.recipe.start_weights import Average

CONTROL = "control"
"""The mix name of the general-only arm against which every effect is measured."""

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")

GROUPS = ("main", "continued", "timing", "weight")
"""The comparisons an arm takes part in: midtraining mixes, continued pretraining, start step, weight."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One cell of the grid.

    `curriculum` ends with the fine-tuning phase on `task`; its last phase boundary is the state that fine-tuning starts
    from. Fine-tuning may be all of it where the weights are a release or an average. `weight` is the specialist share of the
    tokens from `start_step` to fine-tuning, the mean where the mixture changes; a plan refuses another.

    `task_evaluation` and `general_evaluation` are made before and after fine-tuning. `groups` says in which
    comparisons the arm takes part.
    """

    size: str
    mix: str
    weight: float
    start_step: int
    task: str
    trunk_seed: int
    sft_seed: int
    groups: tuple[str, ...]
    curriculum: Curriculum
    task_evaluation: Evaluation
    general_evaluation: Evaluation

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        for name in ("size", "mix", "task"):
            require_name(f"arm.{name}", getattr(self, name))
        for name, what in (("start_step", "a step"), ("trunk_seed", "a seed"), ("sft_seed", "a seed")):
            require_whole(f"arm.{name}", getattr(self, name), what=what)
        require_number("arm.weight", self.weight, 0, what="a share")
        for group in self.groups:
            require_choice("arm.groups", group, GROUPS)
        if len(self.curriculum.stretches) < (2 if self.curriculum.start.weights is None else 1):
            raise RecipeError(
                "arm.curriculum",
                found=f"{len(self.curriculum.stretches)} phases",
                allowed="training followed by fine-tuning; fine-tuning alone where the weights are a release or an average",
            )
        if not 0 <= self.weight <= 1:
            raise RecipeError("arm.weight", found=self.weight, allowed="a share in [0, 1]")
        if (self.mix == CONTROL) != (self.weight == 0):
            raise RecipeError(
                "arm.weight", found=self.weight, allowed=f"0 for the mix called {CONTROL}, above 0 for every other"
            )

    @property
    def factors(self) -> tuple[str, str, float, int, str, int, int]:
        return (self.size, self.mix, self.weight, self.start_step, self.task, self.trunk_seed, self.sft_seed)

    @property
    def pretrain_steps(self) -> int:
        """Steps before fine-tuning: trunk and midtraining, but not what lies behind a release or an average."""
        return self.curriculum.stretches[-1].start_step

    @property
    def start_state(self) -> State:
        """The state that fine-tuning starts from."""
        return self.curriculum.state(self.pretrain_steps)

    @property
    def final_state(self) -> State:
        return self.curriculum.state()

    @property
    def mix_label(self) -> str:
        """`control`, or mix, weight and start step as in `code20@6k` or `code20@6500`."""
        if self.mix == CONTROL:
            return self.mix
        step = self.start_step
        short = f"{step // 1000}k" if step and step % 1000 == 0 else f"{step}"
        return f"{self.mix}{100 * self.weight:g}@{short}"

    def __str__(self) -> str:
        return f"{self.size} {self.mix_label} → {self.task} (trunk seed {self.trunk_seed}, SFT seed {self.sft_seed})"


@dataclass(frozen=True, kw_only=True)
class Study:
    """A named set of arms with the question they answer.

    `token_counts` are the data sets whose token distributions are compared. `notes` are shown by `plan` and the report.
    """

    name: str
    question: str
    arms: tuple[Arm, ...]
    token_counts: tuple[TokenCounts, ...]
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        if not isinstance(self.name, str) or not _STUDY_NAME.fullmatch(self.name):
            found = repr(self.name) if len(repr(self.name)) < 100 else f"{repr(self.name)[:100]}…"
            allowed = "1 to 60 letters, digits, - and _, the first of them a letter or digit"  # a folder's name, too
            raise RecipeError("study.name", found=found, allowed=allowed)
        for name, texts in (("question", (self.question,)), ("notes", self.notes)):
            for text in texts:
                require_text(f"study.{name}", text)
        if not self.arms:
            raise RecipeError("study.arms", found="no arm", allowed="at least one")
        seen: dict[tuple[Any, ...], int] = {}
        for index, arm in enumerate(self.arms):
            if arm.factors in seen:
                raise RecipeError(
                    f"study.arms[{index}]",
                    found=f"{arm}, already arms[{seen[arm.factors]}]",
                    allowed="each combination of size, mix, weight, start step, task and seeds once",
                    fix="Take one of the two out, or give one arm both groups.",
                )
            seen[arm.factors] = index
        self._check_controls()
        self._check_names()
        self._check_counts()

    def _check_controls(self) -> None:
        """Every arm needs its control: same size, task and seeds (no silent missing baseline)."""
        controls = {(a.size, a.task, a.trunk_seed, a.sft_seed) for a in self.arms if a.mix == CONTROL}
        for index, arm in enumerate(self.arms):
            if (arm.size, arm.task, arm.trunk_seed, arm.sft_seed) not in controls:
                raise RecipeError(
                    f"study.arms[{index}]",
                    found=f"{arm} without its general-only control",
                    allowed="a control arm with the same size, task, trunk seed and SFT seed",
                    fix="Add the control arm to the study.",
                )

    def _check_names(self) -> None:
        """One name, one data set: the analysis speaks of corpora and tasks by name."""
        owners: dict[str, str] = {}
        for data in self.datasets():
            identity = identify(data)
            if owners.setdefault(data.name, identity) != identity:
                raise RecipeError(
                    f"study.data.{data.name}",
                    found="two different data sets of this name",
                    allowed="one data set a name",
                )

    def _check_counts(self) -> None:
        """Token distributions of all data sets are compared at the end: one that is not counted is told at the beginning."""
        counted = {recipe.data.name for recipe in self.token_counts}
        for data in self.datasets():
            if data.name not in counted:
                raise RecipeError(
                    "study.token_counts",
                    found=f"no counts of {data.name}; counted: {', '.join(sorted(counted)) or 'none'}",
                    allowed="every corpus and task of the arms",
                )

    def datasets(self) -> Iterator[Dataset]:
        """Every corpus and task that some arm reads or is measured on, or whose tokens are counted, each once."""
        seen: set[int] = set()
        for data in self._all_datasets():
            if id(data) not in seen:
                seen.add(id(data))
                yield data

    def _all_datasets(self) -> Iterator[Dataset]:
        for arm in self.arms:
            yield from (*_datasets_of(arm.curriculum), arm.task_evaluation.data, arm.general_evaluation.data)
        for counts in self.token_counts:
            yield counts.data


def _datasets_of(curriculum: Curriculum) -> Iterator[Dataset]:
    """What a curriculum reads, and what the runs behind an average that it begins with have read."""
    start = curriculum.start
    if isinstance(start.tokenizer, Tokenizer):
        yield start.tokenizer.corpus
    if isinstance(start.weights, Average):
        for state in start.weights.states:
            yield from _datasets_of(state.curriculum)
    for stretch in curriculum.stretches:
        yield from stretch.phase.datasets
