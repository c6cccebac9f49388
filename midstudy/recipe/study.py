"""A study of any shape: arms, what is measured of them, what they are compared with, and what is claimed of them.

An arm is a curriculum and what is measured of it: a row of the table. Its factors are those of its phases. A comparison is
two lists of arms. A claim is a sentence fixed before the run, with what decides it. Nothing here is hashed: the ids of
states and evaluations do not depend on the study that asks for them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import Curriculum, State
from midstudy.recipe.data import Corpus, Dataset, Tokenizer
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_name, require_number, require_text
from midstudy.recipe.factors import Factors, Value, require_factors, selects
from midstudy.recipe.measure import Evaluation, TokenCounts, require_metric
from midstudy.recipe.mixture import Mixture
from midstudy.recipe.plain import hold_plain_numbers
from midstudy.recipe.start_weights import Average

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,59}")

HOLDS = ("above", "below", "within")

OWN_COLUMNS = ("study", "state", "num_steps", "num_tokens", "flops", "wall_s")
"""Columns of the table of arms that no factor and no measure may be called. Those with a colon, such as `tokens:code`, are
per data set."""

Selection = Mapping[str, Value | tuple[Value, ...]]
"""Values of factors; a tuple stands for any of its values."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric of one evaluation of one state, or of several states of a run: a curve over their steps.

    `metric` is a name under which the evaluation reports (`midstudy/evaluate`), `better` which way is better.
    """

    evaluation: Evaluation
    state: State | None = None
    states: tuple[State, ...] = ()
    metric: str = "loss_nats"
    better: str = "lower"

    def __post_init__(self) -> None:
        if (self.state is None) == (not self.states):
            raise RecipeError("measure.state", expected="either one state, or several in `states`", got=self.state)
        require_kind("measure.evaluation", self.evaluation, Evaluation, expected="an Evaluation")
        require_metric("measure", self.evaluation, self.metric, self.better)

    @property
    def is_curve(self) -> bool:
        return self.state is None

    @property
    def all_states(self) -> tuple[State, ...]:
        return self.states if self.state is None else (self.state,)


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """A row of the table: a curriculum, and its measures by column."""

    curriculum: Curriculum
    measures: Mapping[str, Measure]

    def __post_init__(self) -> None:
        for column, measure in self.measures.items():
            if not isinstance(column, str) or not _COLUMN.fullmatch(column) or column in OWN_COLUMNS:
                allowed = f"lower case letters, digits and _, a letter first; not one of {', '.join(OWN_COLUMNS)}"
                raise RecipeError("arm.measures", expected=allowed, got=repr(column))
            require_kind(f"arm.measures.{column}", measure, Measure, expected="a Measure")

    @cached_property
    def factors(self) -> Mapping[str, Value]:
        return dict(self.curriculum.factors)

    @cached_property
    def final_state(self) -> State:
        return self.curriculum.state()

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.factors.items()) or f"state {self.final_state.id}"


def where(arms: Iterable[Arm], **values: Value | tuple[Value, ...]) -> tuple[Arm, ...]:
    """The arms whose factors have these values; of a tuple of values, one of them."""
    return tuple(arm for arm in arms if selects(values, arm.factors))


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Arms beside the reference that agrees with each in the factors `match` and in the study's seeds.

    `columns` are the measured columns that are compared; the first is the one that answers the study's question. `along`
    names the factor along which the arms are drawn as a curve. `title` heads its section of the report.
    """

    name: str
    arms: Sequence[Arm]
    references: Sequence[Arm]
    columns: tuple[str, ...]
    match: tuple[str, ...] = ()
    along: str | None = None
    title: str = ""

    def __post_init__(self) -> None:
        require_name("comparison.name", self.name)
        for name in ("arms", "references"):
            if not getattr(self, name):
                raise RecipeError(f"comparisons.{self.name}.{name}", expected="at least one arm of the study", got="none")
        if isinstance(self.columns, str) or not self.columns:
            raise RecipeError(
                f"comparisons.{self.name}.columns", expected="measured columns, at least one", got=self.columns
            )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of a source, or of one's own, with what decides it, fixed before the run.

    `estimator` names a function of `midstudy/analysis/estimators.py`, or one of another module as `package.module:function`;
    it looks at `column` of `comparison`, at the arms there with the factors `arms`. The claim holds where the estimate's
    95 % interval lies above `margin`, below it, or within ± `margin`. p values are corrected within a `family`. `cited` is
    what the source reports.
    """

    text: str
    source: str
    estimator: str
    comparison: str = ""
    column: str = ""
    arms: Selection = field(default_factory=dict)
    options: Mapping[str, Value] = field(default_factory=dict)
    holds: str = "above"
    margin: float = 0.0
    family: str = ""
    cited: str = ""

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        for name in ("text", "source", "estimator", "cited", "family"):
            require_text(f"claim.{name}", getattr(self, name))
        require_choice(f"claims.{self.text}.holds", self.holds, HOLDS)
        require_number(f"claims.{self.text}.margin", self.margin, 0 if self.holds == "within" else -1e300)


@dataclass(frozen=True, kw_only=True)
class Mix:
    """A mixture whose token distribution is compared with those of the study's counted data sets.

    `factors` are those of the arms that train on it. Its proximity advantage is how much closer it lies than `reference`.
    """

    name: str
    mixture: Mixture
    reference: Corpus
    factors: Factors = ()

    def __post_init__(self) -> None:
        require_name("mix.name", self.name)
        require_factors(f"mixes.{self.name}.factors", self.factors)


@dataclass(frozen=True, kw_only=True, eq=False)
class Study:
    """Arms with the question they answer, or counted data sets alone.

    `seeds` are the factors that repeat an arm: the first replicates it, the others are averaged within the first. `report`
    names the report: `study` for the general one, else a package in `midstudy/studies`. `notes` are shown by `plan` and the
    report.
    """

    name: str
    question: str
    arms: Sequence[Arm] = ()
    comparisons: Sequence[Comparison] = ()
    claims: Sequence[Claim] = ()
    seeds: tuple[str, ...] = ("trunk_seed", "sft_seed")
    counts: Sequence[TokenCounts] = ()
    mixes: Sequence[Mix] = ()
    report: str = "study"
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _STUDY_NAME.fullmatch(self.name):
            found = repr(self.name) if len(repr(self.name)) < 100 else f"{repr(self.name)[:100]}…"
            allowed = "1 to 60 letters, digits, - and _, the first of them a letter or digit"  # a folder's name, too
            raise RecipeError("study.name", expected=allowed, got=found)
        for name, texts in (("question", (self.question,)), ("notes", self.notes)):
            for text in texts:
                require_text(f"study.{name}", text)
        if not self.arms and not self.counts:
            raise RecipeError("study.arms", expected="at least one arm, or counts of data sets", got="no arm")
        self._check_arms()
        for comparison in self.comparisons:
            self._check_comparison(comparison)
        for index, claim in enumerate(self.claims):
            self._check_claim(f"study.claims[{index}]", claim)
        self._check_names()
        self._check_counts()

    @cached_property
    def factor_names(self) -> tuple[str, ...]:
        """The factors of the arms, in the order of the first arm's phases."""
        return tuple(self.arms[0].factors) if self.arms else ()

    @cached_property
    def columns(self) -> Mapping[str, Measure]:
        """The measured columns with one measure that fills each."""
        found: dict[str, Measure] = {}
        for arm in self.arms:
            found |= {column: measure for column, measure in arm.measures.items() if column not in found}
        return found

    def index(self, arm: Arm) -> int | None:
        """The arm's row: that of the arm with its factors; None if the study has none."""
        return self._rows.get(_key(arm.factors))

    @cached_property
    def _rows(self) -> dict[frozenset[tuple[str, Value]], int]:
        return {_key(arm.factors): row for row, arm in enumerate(self.arms)}

    def _check_arms(self) -> None:
        seen: dict[frozenset[tuple[str, Value]], int] = {}
        for row, arm in enumerate(self.arms):
            path = f"study.arms[{row}]"
            if arm.factors.keys() != self.arms[0].factors.keys():
                raise RecipeError(
                    f"{path}.factors",
                    expected=f"the factors of study.arms[0]: {', '.join(self.factor_names) or 'none'}",
                    got=", ".join(arm.factors) or "none",
                    fix="Label the phases or the start of every arm with the same factors.",
                )
            if _key(arm.factors) in seen:
                raise RecipeError(
                    path,
                    expected="each combination of factors once",
                    got=f"{arm}, already arms[{seen[_key(arm.factors)]}]",
                    fix="Take one of the two out, or label what tells them apart with a factor.",
                )
            seen[_key(arm.factors)] = row
            if clash := arm.factors.keys() & {*arm.measures, *OWN_COLUMNS}:
                name = min(clash)
                raise RecipeError(
                    f"{path}.factors.{name}",
                    expected="a name of its own",
                    got="the name of another column",
                    fix="Rename it.",
                )
        for name in self.seeds if self.arms else ():
            if name not in self.factor_names:
                raise RecipeError(
                    "study.seeds",
                    expected=f"factors of the arms: {', '.join(self.factor_names) or 'none'}",
                    got=name,
                    fix="Name the factors that repeat an arm in Study(seeds=...).",
                )
        for column, measure in self.columns.items():
            for row, arm in enumerate(self.arms):
                one = arm.measures.get(column, measure)
                if (one.metric, one.better, one.is_curve) != (measure.metric, measure.better, measure.is_curve):
                    raise RecipeError(
                        f"study.arms[{row}].measures.{column}",
                        expected=f"one metric a column, here {measure.metric}, {measure.better}",
                        got=f"{one.metric}, {one.better} is better, {'several states' if one.is_curve else 'one state'}",
                    )

    def _check_comparison(self, comparison: Comparison) -> None:
        path = f"study.comparisons.{comparison.name}"
        if sum(one.name == comparison.name for one in self.comparisons) > 1:
            raise RecipeError(path, expected="one", got="two comparisons of this name")
        for name in (*comparison.match, *((comparison.along,) if comparison.along else ())):
            if name not in self.factor_names:
                raise RecipeError(f"{path}.match", expected=f"factors of the arms: {', '.join(self.factor_names)}", got=name)
        for column in comparison.columns:
            if column not in self.columns or self.columns[column].is_curve:
                known = ", ".join(one for one, measure in self.columns.items() if not measure.is_curve)
                raise RecipeError(
                    f"{path}.columns", expected=f"a column measured at one state: {known or 'none'}", got=column
                )
        for name in ("arms", "references"):
            for arm in getattr(comparison, name):
                if self.index(arm) is None:
                    raise RecipeError(f"{path}.{name}", expected="arms of the study", got=str(arm), fix="Add it to arms.")
        self._check_references(path, comparison)

    def _check_references(self, path: str, comparison: Comparison) -> None:
        """Every arm has a reference with the same seeds, and only one but for its seeds."""
        known: dict[tuple[Value, ...], set[frozenset[tuple[str, Value]]]] = {}
        for reference in comparison.references:
            agrees = tuple(reference.factors[name] for name in (*comparison.match, *self.seeds))
            known.setdefault(agrees, set()).add(_key(reference.factors, without=self.seeds))
        keys = ", ".join((*comparison.match, *self.seeds))
        for arm in comparison.arms:
            agrees = tuple(arm.factors[name] for name in (*comparison.match, *self.seeds))
            found = known.get(agrees, set())
            if not found:
                raise RecipeError(
                    f"{path}.references",
                    expected=f"a reference with the same {keys}",
                    got=f"no reference for the arm with {arm}",
                    fix="Add that reference to the study, or take the arm out.",
                )
            if len(found) > 1:
                raise RecipeError(
                    f"{path}.references",
                    expected=f"one with the same {keys}",
                    got=f"{len(found)} references for the arm with {arm}",
                    fix="Match in one more factor, or compare them one by one.",
                )

    def _check_claim(self, path: str, claim: Claim) -> None:
        comparisons = {one.name: one for one in self.comparisons}
        if claim.comparison:
            if claim.comparison not in comparisons:
                raise RecipeError(
                    f"{path}.comparison",
                    expected=f"a comparison of the study: {', '.join(comparisons) or 'none'}",
                    got=f"{claim.comparison!r}, for the claim {claim.text!r}",
                    fix="Add the comparison with its arms and references, or leave the claim out.",
                )
            comparison = comparisons[claim.comparison]
            if claim.column not in comparison.columns:
                allowed = f"a column that {claim.comparison} compares: {', '.join(comparison.columns)}"
                raise RecipeError(f"{path}.column", expected=allowed, got=claim.column)
            if not any(selects(claim.arms, arm.factors) for arm in comparison.arms):
                raise RecipeError(
                    f"{path}.arms",
                    expected="a selection of the comparison's arms",
                    got=f"no arm of {claim.comparison} with {dict(claim.arms)}, for the claim {claim.text!r}",
                    fix="Add the arm with its reference to the comparison, or leave the claim out.",
                )

    def _check_names(self) -> None:
        """One name, one data set: tables and reports speak of corpora and tasks by name."""
        owners: dict[str, str] = {}
        for data in self.datasets():
            identity = identify(data)
            if owners.setdefault(data.name, identity) != identity:
                raise RecipeError(
                    f"study.data.{data.name}",
                    expected="one data set a name",
                    got="two different data sets of this name",
                )

    def _check_counts(self) -> None:
        """What the mixes are made of and compared with is counted."""
        counted = {one.data.name for one in self.counts}
        for mix in self.mixes:
            for corpus in (*mix.mixture.corpora, mix.reference):
                if corpus.name not in counted:
                    raise RecipeError(
                        "study.counts",
                        expected=f"counts of every corpus of the mixes; counted: {', '.join(sorted(counted)) or 'none'}",
                        got=f"no counts of {corpus.name}, for the mix {mix.name}",
                    )

    def datasets(self) -> Iterator[Dataset]:
        """Every corpus and task that an arm reads or is measured on, or whose tokens are counted, each once."""
        seen: set[int] = set()
        for data in self._all_datasets():
            if id(data) not in seen:
                seen.add(id(data))
                yield data

    def _all_datasets(self) -> Iterator[Dataset]:
        for arm in self.arms:
            yield from _datasets_of(arm.curriculum)
            for measure in arm.measures.values():
                yield measure.evaluation.data
        for counts in self.counts:
            yield counts.data


def _key(factors: Mapping[str, Value], *, without: Collection[str] = ()) -> frozenset[tuple[str, Value]]:
    return frozenset((name, value) for name, value in factors.items() if name not in without)


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
