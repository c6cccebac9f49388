"""Studies: arms, their measures, comparisons between them, and claims about them.

An arm is a curriculum and what is measured of it: a row of the table. Its factors are those of its start and phases. A
comparison is two lists of arms. A claim is a statement fixed before the run, with the test that decides it. Nothing here is
hashed: the ids of states and evaluations do not depend on the study that uses them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

from midstudy.recipe.canonical import identify
from midstudy.recipe.choice import Choice, chosen_in
from midstudy.recipe.curriculum import Curriculum, State
from midstudy.recipe.data import Corpus, Dataset, Tokenizer
from midstudy.recipe.errors import RecipeError, require_choice, require_kind, require_name, require_number, require_text
from midstudy.recipe.factors import Factors, Value, require_factors, selects
from midstudy.recipe.measure import AnyEvaluation, TokenCounts, require_metric
from midstudy.recipe.mixture import Mixture
from midstudy.recipe.packing import Packing
from midstudy.recipe.plain import hold_plain_numbers
from midstudy.recipe.representation import RepresentationSimilarity
from midstudy.recipe.start_weights import Average

_STUDY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,59}")
_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,59}")

HOLDS = ("above", "below", "within")

OWN_COLUMNS = ("study", "state", "num_steps", "num_tokens", "flops", "wall_s")
"""Columns of the table of arms; no factor or measure may use these names. The table also has columns for each data set,
whose names contain a colon, such as `tokens:code`."""

LABEL_COLUMNS = ("arm", "column", "data", "item", "loss_nats", "lr", "model", "role", "split", "stage", "step", "tokens")
"""Columns that stand beside the factors in the tables of items, curves and training; no factor may use these names."""

Selection = Mapping[str, Value | tuple[Value, ...]]
"""Values of factors; a tuple selects any of its values."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One metric of one evaluation, of one state or of several states of a run (a curve over their steps).

    `metric` is a metric that the evaluation reports; `better` is `lower` or `higher`. `title` is what a reader calls the
    column, such as 'task loss'; by default its name.
    """

    evaluation: AnyEvaluation
    state: State | None = None
    states: tuple[State, ...] = ()
    metric: str = "loss_nats"
    better: str = "lower"
    title: str = ""

    def __post_init__(self) -> None:
        if (self.state is None) == (not self.states):
            raise RecipeError("measure.state", expected="either one `state` or several `states`", got=self.state)
        require_kind("measure.evaluation", self.evaluation, AnyEvaluation, expected="an evaluation")
        require_metric("measure", self.evaluation, self.metric, self.better)
        if isinstance(self.evaluation, RepresentationSimilarity):
            for state in self.all_states:
                self.evaluation.require_comparable("measure.evaluation", state)

    @property
    def is_curve(self) -> bool:
        return self.state is None

    @property
    def all_states(self) -> tuple[State, ...]:
        return self.states if self.state is None else (self.state,)

    @property
    def read_states(self) -> tuple[State, ...]:
        """The measured states, and the state that they are compared with if there is one."""
        other = self.evaluation.other
        return (*self.all_states, other) if isinstance(other, State) else self.all_states


@dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
    """A row of the table: a curriculum, and its measures by column."""

    curriculum: Curriculum
    measures: Mapping[str, Measure]

    def __post_init__(self) -> None:
        for column, measure in self.measures.items():
            if not isinstance(column, str) or not _COLUMN.fullmatch(column) or column in OWN_COLUMNS:
                own = ", ".join(OWN_COLUMNS)
                expected = f"a name of lower-case letters, digits and _ that starts with a letter and is not one of {own}"
                raise RecipeError("arm.measures", expected=expected, got=repr(column))
            require_kind(f"arm.measures.{column}", measure, Measure, expected="a Measure")
        names = [choice.name for choice in choices_of(self.curriculum)]
        if len(set(names)) < len(names):
            raise RecipeError("arm.choices", expected="a different name for each choice", got=", ".join(names))

    @cached_property
    def factors(self) -> Mapping[str, Value]:
        return dict(self.curriculum.factors)

    @cached_property
    def final_state(self) -> State:
        return self.curriculum.state()

    @cached_property
    def choices(self) -> Mapping[str, Choice]:
        """The choices that the arm's learning rates depend on, by name."""
        return {choice.name: choice for choice in choices_of(self.curriculum)}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in self.factors.items()) or f"state {self.final_state.id}"


def where(arms: Iterable[Arm], **values: Value | tuple[Value, ...]) -> tuple[Arm, ...]:
    """Return the arms whose factors have these values; a tuple of values accepts any of them."""
    return tuple(arm for arm in arms if selects(values, arm.factors))


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Arms, each compared with the reference that agrees with it in the factors `match` and in the study's seeds.

    `columns` are the measured columns to compare; the first one answers the study's question. `along` names the factor on
    the x axis when the arms are drawn as a curve. `title` is the heading of its section in the report.
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
                raise RecipeError(f"comparisons.{self.name}.{name}", expected="at least one arm of the study", got="nothing")
        if isinstance(self.columns, str) or not self.columns:
            raise RecipeError(
                f"comparisons.{self.name}.columns", expected="a tuple of at least one measured column", got=self.columns
            )


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement of a source or of the study's author, fixed before the run, with the test that decides it.

    `estimator` names a function of `midstudy/analysis/estimators.py`, or of another module as `package.module:function`. It
    reads `column` of those arms of `comparison` that have the factors `arms`. The claim says that the estimate lies above
    `margin`, below it, or within ± `margin`, as `holds` says; it is decided by a two-sided test at the margin, `within` by
    two one-sided tests, at 5 % after Holm's correction over the claims of its `family` (those without one form one).
    `cited` is what the source reports.
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

    `factors` are the factors of the arms that train on it. Its proximity advantage is its proximity minus that of
    `reference`.
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
    """Arms and the question that they answer, or only data sets whose tokens are counted or whose items are packed.

    `seeds` are the factors that repeat an arm: the first one gives the replicates, the others are averaged within it.
    `looks` are the numbers of seeds at which the claims will be judged, the last one the number planned in all: a study
    whose seeds grow spends its 5 % over them (`midstudy/analysis/spending.py`). Without them every report judges at 5 %.
    `report` names the report: `study` for the general one, or a package in `midstudy/studies`. `plan` and the report show
    `notes`.
    """

    name: str
    question: str
    arms: Sequence[Arm] = ()
    comparisons: Sequence[Comparison] = ()
    claims: Sequence[Claim] = ()
    seeds: tuple[str, ...] = ("trunk_seed", "sft_seed")
    counts: Sequence[TokenCounts] = ()
    mixes: Sequence[Mix] = ()
    packings: Sequence[Packing] = ()
    report: str = "study"
    notes: Sequence[str] = ()
    looks: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not _STUDY_NAME.fullmatch(self.name):
            got = repr(self.name) if len(repr(self.name)) < 100 else f"{repr(self.name)[:100]}…"
            expected = "1 to 60 letters, digits, - and _, starting with a letter or digit"  # it also names a folder
            raise RecipeError("study.name", expected=expected, got=got)
        for name, texts in (("question", (self.question,)), ("notes", self.notes)):
            for text in texts:
                require_text(f"study.{name}", text)
        if not self.arms and not self.counts and not self.packings:
            raise RecipeError("study.arms", expected="at least one arm, or counts of data sets", got="neither")
        self._check_arms()
        for comparison in self.comparisons:
            self._check_comparison(comparison)
        for index, claim in enumerate(self.claims):
            self._check_claim(f"study.claims[{index}]", claim)
        self._check_names()
        self._check_counts()
        self._check_looks()

    @cached_property
    def factor_names(self) -> tuple[str, ...]:
        """The factors of the arms, in the order of the first arm's phases."""
        return tuple(self.arms[0].factors) if self.arms else ()

    @cached_property
    def columns(self) -> Mapping[str, Measure]:
        """The measured columns, each with the first measure that fills it."""
        columns: dict[str, Measure] = {}
        for arm in self.arms:
            columns |= {column: measure for column, measure in arm.measures.items() if column not in columns}
        return columns

    def index(self, arm: Arm) -> int | None:
        """Return the row of the arm with the same factors; `None` if the study has no such arm."""
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
                    expected="a combination of factors that no other arm has",
                    got=f"{arm}, as in arms[{seen[_key(arm.factors)]}]",
                    fix="Remove one of the two, or add a factor for what differs.",
                )
            seen[_key(arm.factors)] = row
            if clash := arm.factors.keys() & {*arm.measures, *OWN_COLUMNS, *LABEL_COLUMNS}:
                name = min(clash)
                raise RecipeError(
                    f"{path}.factors.{name}",
                    expected="a name that no other column has",
                    got="the name of another column",
                    fix="Rename the factor.",
                )
        for name in self.seeds if self.arms else ():
            if name not in self.factor_names:
                raise RecipeError(
                    "study.seeds",
                    expected=f"factors of the arms ({', '.join(self.factor_names) or 'none'})",
                    got=name,
                    fix="Name the factors that repeat an arm in Study(seeds=...).",
                )
        for column, measure in self.columns.items():
            for row, arm in enumerate(self.arms):
                own = arm.measures.get(column, measure)
                if (own.metric, own.better, own.is_curve) != (measure.metric, measure.better, measure.is_curve):
                    raise RecipeError(
                        f"study.arms[{row}].measures.{column}",
                        expected=f"the column's metric in every arm: {_describe(measure)}",
                        got=_describe(own),
                    )

    def _check_comparison(self, comparison: Comparison) -> None:
        path = f"study.comparisons.{comparison.name}"
        if sum(other.name == comparison.name for other in self.comparisons) > 1:
            raise RecipeError(path, expected="one comparison of this name", got="two")
        for name in (*comparison.match, *((comparison.along,) if comparison.along else ())):
            if name not in self.factor_names:
                raise RecipeError(
                    f"{path}.match", expected=f"factors of the arms ({', '.join(self.factor_names)})", got=name
                )
        for column in comparison.columns:
            if column not in self.columns or self.columns[column].is_curve:
                known = ", ".join(name for name, measure in self.columns.items() if not measure.is_curve)
                raise RecipeError(
                    f"{path}.columns", expected=f"a column measured at one state ({known or 'none'})", got=column
                )
        for name in ("arms", "references"):
            for arm in getattr(comparison, name):
                if self.index(arm) is None:
                    raise RecipeError(
                        f"{path}.{name}", expected="arms of the study", got=str(arm), fix="Add the arm to Study.arms."
                    )
        self._check_references(path, comparison)

    def _check_references(self, path: str, comparison: Comparison) -> None:
        """Raise `RecipeError` unless every arm has exactly one reference, apart from its seeds."""
        references: dict[tuple[Value, ...], set[frozenset[tuple[str, Value]]]] = {}
        for reference in comparison.references:
            shared = tuple(reference.factors[name] for name in (*comparison.match, *self.seeds))
            references.setdefault(shared, set()).add(_key(reference.factors, without=self.seeds))
        keys = ", ".join((*comparison.match, *self.seeds))
        for arm in comparison.arms:
            shared = tuple(arm.factors[name] for name in (*comparison.match, *self.seeds))
            matches = references.get(shared, set())
            if not matches:
                raise RecipeError(
                    f"{path}.references",
                    expected=f"a reference with the same {keys} as the arm with {arm}",
                    got="none",
                    fix="Add that reference to the study, or remove the arm from the comparison.",
                )
            if len(matches) > 1:
                raise RecipeError(
                    f"{path}.references",
                    expected=f"one reference with the same {keys} as the arm with {arm}",
                    got=len(matches),
                    fix="Match one more factor, or write several comparisons.",
                )

    def _check_claim(self, path: str, claim: Claim) -> None:
        comparisons = {comparison.name: comparison for comparison in self.comparisons}
        if claim.comparison:
            if claim.comparison not in comparisons:
                raise RecipeError(
                    f"{path}.comparison",
                    expected=f"a comparison of the study ({', '.join(comparisons) or 'none'})",
                    got=f"{claim.comparison!r}, for the claim {claim.text!r}",
                    fix="Add the comparison with its arms and references, or remove the claim.",
                )
            comparison = comparisons[claim.comparison]
            if claim.column not in comparison.columns:
                expected = f"a column that {claim.comparison} compares ({', '.join(comparison.columns)})"
                raise RecipeError(f"{path}.column", expected=expected, got=claim.column)
            if not any(selects(claim.arms, arm.factors) for arm in comparison.arms):
                raise RecipeError(
                    f"{path}.arms",
                    expected=f"factors of some arm of {claim.comparison}",
                    got=f"{dict(claim.arms)}, for the claim {claim.text!r}",
                    fix="Add the arm with its reference to the comparison, or remove the claim.",
                )

    def _check_names(self) -> None:
        """Raise `RecipeError` if two data sets have one name: tables and reports refer to them by name."""
        ids: dict[str, str] = {}
        for data in self.datasets():
            dataset_id = identify(data)
            if ids.setdefault(data.name, dataset_id) != dataset_id:
                raise RecipeError(f"study.data.{data.name}", expected="one data set of this name", got="two different ones")

    def _check_counts(self) -> None:
        """Raise `RecipeError` unless the tokens of every corpus of the mixes and of their references are counted."""
        counted = {counts.data.name for counts in self.counts}
        for mix in self.mixes:
            for corpus in (*mix.mixture.corpora, mix.reference):
                if corpus.name not in counted:
                    raise RecipeError(
                        "study.counts",
                        expected=f"counts of {corpus.name}, for the mix {mix.name}",
                        got=f"counts of {', '.join(sorted(counted)) or 'nothing'}",
                    )

    def _check_looks(self) -> None:
        """Raise `RecipeError` unless the looks are growing numbers of seeds, each enough for a test."""
        is_whole = isinstance(self.looks, tuple) and all(type(look) is int and look >= 2 for look in self.looks)
        if not is_whole or any(left >= right for left, right in pairwise(self.looks)):
            raise RecipeError(
                "study.looks", expected="growing numbers of seeds of at least 2, such as (3, 5, 8)", got=self.looks
            )
        if self.looks and not self.seeds:
            raise RecipeError("study.looks", expected="nothing in a study without seeds", got=self.looks)

    def datasets(self) -> Iterator[Dataset]:
        """Yield every corpus and task that an arm or a tokenizer reads, or that is measured or counted, each once."""
        seen: set[int] = set()
        for data in self._all_datasets():
            if id(data) not in seen:
                seen.add(id(data))
                yield data

    def evaluations(self) -> set[AnyEvaluation]:
        """Return the evaluations of the arms' measures and of the choices that the arms depend on."""
        measured = {measure.evaluation for arm in self.arms for measure in arm.measures.values()}
        return measured | {choice.evaluation for choice in self.choices}

    @cached_property
    def choices(self) -> tuple[Choice, ...]:
        """The choices that the arms or their candidates depend on, each once."""
        known: dict[str, Choice] = {}
        pending = [arm.curriculum for arm in self.arms]
        for curriculum in pending:
            for choice in choices_of(curriculum):
                if choice.id not in known:
                    known[choice.id] = choice
                    pending += [state.curriculum for state in choice.candidates]
        return tuple(known.values())

    def _all_datasets(self) -> Iterator[Dataset]:
        for arm in self.arms:
            yield from _datasets_of(arm.curriculum)
            for measure in arm.measures.values():
                yield measure.evaluation.data
                for state in measure.read_states:
                    yield from _datasets_of(state.curriculum)
        for choice in self.choices:
            yield choice.evaluation.data
            for state in choice.candidates:
                yield from _datasets_of(state.curriculum)
        for counts in self.counts:
            yield counts.data
            if isinstance(counts.tokenizer, Tokenizer):
                yield from counts.tokenizer.corpora
        for packing in self.packings:
            yield from packing.mixture.tasks
            if isinstance(packing.tokenizer, Tokenizer):
                yield from packing.tokenizer.corpora


def _key(factors: Mapping[str, Value], *, without: Collection[str] = ()) -> frozenset[tuple[str, Value]]:
    return frozenset((name, value) for name, value in factors.items() if name not in without)


def _describe(measure: Measure) -> str:
    return f"{measure.metric}, {measure.better} is better, {'several states' if measure.is_curve else 'one state'}"


def choices_of(curriculum: Curriculum) -> tuple[Choice, ...]:
    """Return the choices of a curriculum and of the averaged runs that it starts from, each once."""
    averaged = (chosen.choice for chosen in chosen_in(curriculum.start))
    return tuple({choice.id: choice for choice in (*averaged, *curriculum.choices)}.values())


def _datasets_of(curriculum: Curriculum) -> Iterator[Dataset]:
    """Yield the data sets that a curriculum reads, including those of the averaged runs that it starts from."""
    start = curriculum.start
    if isinstance(start.tokenizer, Tokenizer):
        yield from start.tokenizer.corpora
    if isinstance(start.weights, Average):
        for state in start.weights.states:
            yield from _datasets_of(state.curriculum)
    for placed in curriculum.stretches:
        yield from placed.phase.datasets
