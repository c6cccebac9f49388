"""Expand a study into stages: every shared step is trained once, and trunks keep a state where curricula diverge.

A state is kept where a phase begins or ends, where an open-ended segment of the learning rate is replaced (a longer run
will leave there), where two curricula of the study diverge, where an average or a measure uses it, and where another study
already kept a state. Each kept state is trained from the nearest earlier kept state on its own path. Averaged runs and the
candidates of choices are curricula of the study like those of its arms. A state whose learning rate a choice decides has
the decision among its parents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from midstudy.data.packed_counts import PackedCounts
from midstudy.data.size import text_bytes, unprepared_parts
from midstudy.plan.averages import name_of_average
from midstudy.plan.cost import (
    COUNTING_TOKENS_PER_S,
    DATA_STAGE_S,
    FILE_BYTES_PER_S,
    PACKING_ITEMS_PER_S,
    PREPARATION_BYTES_PER_S,
    PREPARING_BYTES_PER_S,
    TOKENISING_BYTES_PER_S,
    TOKENIZER_BYTES_PER_S,
    Throughput,
    Workload,
    checkpoint_bytes,
)
from midstudy.plan.device import CPU_CORE, Device
from midstudy.plan.labels import evaluation_label, with_unique_labels
from midstudy.plan.left_out import LeftOut
from midstudy.plan.needed_runs import needed_runs, runs_alone
from midstudy.plan.packed import CountsOf, estimated_counts
from midstudy.plan.parts import Divided, divide, is_large
from midstudy.plan.sharing import distinct_steps
from midstudy.recipe.choice import Choice
from midstudy.recipe.curriculum import Curriculum, State, Stretch
from midstudy.recipe.data import Corpus, Dataset, ReleasedTokenizer, Source, SourceMix, TokenizedData, Tokenizer
from midstudy.recipe.errors import RecipeError, inside
from midstudy.recipe.factors import Value, joined
from midstudy.recipe.measure import AnyEvaluation, StateEvaluation
from midstudy.recipe.packing import Packing
from midstudy.recipe.phase import Phase
from midstudy.recipe.preparation import Prepared, shared_prefix
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.shape import AnyShape
from midstudy.recipe.stage import Stage, stage_id
from midstudy.recipe.start_weights import Average
from midstudy.recipe.study import Arm, Study
from midstudy.recipe.task_data import TaskData
from midstudy.recipe.task_mixture import TaskMixture


@dataclass(frozen=True)
class KeptState:
    """A published state of any study: the id of the first state of its placed phase, its step and its id."""

    stretch_from: str
    step: int
    id: str


@dataclass(frozen=True)
class ArmStages:
    """The stages from which an arm's row of the table is read."""

    arm: Arm
    state: str
    measures: Mapping[str, tuple[str, ...]]
    """The evaluation stages of each measured column, in the order of its states."""


@dataclass(frozen=True)
class Plan:
    """The stages of a study, parents first, and which of them are finished."""

    study: Study
    stages: Mapping[str, Stage]
    published: frozenset[str]
    arms: tuple[ArmStages, ...]
    lower_bound_steps: int
    unshared_steps: int
    unshared_s: float
    """Expected seconds of one device for the whole study with every arm trained alone; data and evaluations count once."""
    throughput: Throughput
    priced_by: Mapping[str, tuple[str, ...]]
    """Names of the model shapes by the source of their rate, as in `Throughput.source`."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What the finished data stages left out; empty without a store."""
    workloads: tuple[Workload, ...] = ()
    """One workload per shape and precision of the missing states: that of the state with the most tokens."""
    divided: tuple[Divided, ...] = ()
    """Token stages that are made in parts."""
    epochs: Mapping[str, PackedCounts] = field(default_factory=dict)
    """What each packing reads, by stage id: of phases, and those that the experiment asked the length of."""
    unresolved: tuple[Packing, ...] = ()
    """Packings that the store does not have: their numbers are estimates, and so are lengths that follow from them."""

    def counts_of(self, packing: Packing) -> PackedCounts:
        """Return what a packing of the plan reads."""
        return self.epochs[packing.id]

    @property
    def missing(self) -> list[Stage]:
        """Stages without a record."""
        return [stage for stage in self.stages.values() if stage.id not in self.published]

    @property
    def total_steps(self) -> int:
        """Training steps of all stages, including finished ones."""
        return sum(stage.num_steps for stage in self.stages.values())

    @property
    def missing_steps(self) -> int:
        return sum(stage.num_steps for stage in self.missing)

    @property
    def missing_bytes(self) -> int:
        """Bytes on disk of the missing checkpoints."""
        return sum(stage.disk_bytes for stage in self.missing)

    @property
    def missing_s(self) -> float:
        """Expected seconds of one device for the missing stages; see `device_s`."""
        return device_s(self.throughput.device, self.missing)


@dataclass
class _Builder:
    study: Study
    throughput: Throughput
    kept: Mapping[str, list[KeptState]]
    is_published: Callable[[Iterable[str]], set[str]]
    counts_of: CountsOf
    epochs: dict[str, PackedCounts] = field(default_factory=dict)
    unresolved: dict[str, Packing] = field(default_factory=dict)
    stages: dict[str, Stage] = field(default_factory=dict)
    requested: dict[str, tuple[Curriculum, int]] = field(default_factory=dict)
    curricula: list[Curriculum] = field(default_factory=list)
    finals: set[str] = field(default_factory=set)
    """Ids of the final states of arms and of candidates, whose labels are the phase alone."""
    kept_steps: dict[str, set[int]] = field(default_factory=dict)
    """Steps of kept states by the id of the first state of their placed phase."""
    priced_by: dict[str, set[str]] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)
    judged: set[str] = field(default_factory=set)
    """Ids of candidates without a record whose decisions were made: they are not trained again."""
    continued: set[str] = field(default_factory=set)
    text_bytes: dict[Dataset, float] = field(default_factory=dict)
    divided: list[Divided] = field(default_factory=list)
    """Token stages that are made in parts."""
    prepared: set[str] = field(default_factory=set)
    """Built-in parts whose preparation is already part of a stage's cost."""
    runs: dict[str, str] = field(default_factory=dict)
    """Name of each planned state's run, by state id: its label without its step."""

    def add(self, stage: Stage) -> str:
        self.stages.setdefault(stage.id, stage)
        return stage.id

    # -- data ---------------------------------------------------------------------------------------------------------

    def preparations(self, data: Dataset) -> tuple[str, ...]:
        """Add the stage that prepares a data set, if one does; return its id."""
        if not isinstance(data.source, Prepared):
            return ()
        recipe, stage = data.source, stage_id(data.source)
        if stage not in self.stages:
            read = {parent: None for needed in recipe.needed for parent in self.preparations(needed)}
            shared = shared_prefix(recipe, self.prepared_texts)
            rest = len(recipe.steps)
            if shared is not None:
                read |= dict.fromkeys(
                    self.preparations(Corpus(name=" + ".join(corpus.name for corpus in recipe.of), source=shared))
                )
                rest -= len(shared.steps)
            num_bytes = sum(self._text_bytes(corpus) for corpus in recipe.of)
            cost_s = sum(self._preparing_s(corpus.source) for corpus in recipe.of)
            self.add(
                Stage(
                    id=stage,
                    label=f"{data.name}: {recipe}",
                    recipe=recipe,
                    parents=tuple(read),
                    cost_s=DATA_STAGE_S + cost_s + max(1, rest) * num_bytes / PREPARATION_BYTES_PER_S,
                    role="data",
                    data=data.name,
                )
            )
        return (stage,)

    @cached_property
    def prepared_texts(self) -> tuple[Prepared, ...]:
        """All preparations of the study, also those that others read."""
        found: dict[Prepared, None] = {}

        def add(data: Dataset) -> None:
            if isinstance(data.source, Prepared):
                for needed in data.source.needed:
                    add(needed)
                found[data.source] = None

        for data in self.study.datasets():
            add(data)
        return tuple(found)

    def tokenizer(self, tokenizer: Tokenizer | ReleasedTokenizer) -> str:
        tokenizer_id = stage_id(tokenizer)
        if tokenizer_id not in self.stages:
            if isinstance(tokenizer, Tokenizer):
                name = " + ".join(corpus.name for corpus in tokenizer.corpora)
                label = f"tokenizer {tokenizer.vocab_size:,} on {name}"
            else:
                name, label = tokenizer.name, f"tokenizer {tokenizer.vocab_size:,} of {tokenizer.name}"
            cost_s = DATA_STAGE_S
            parents: list[str] = []
            if isinstance(tokenizer, Tokenizer):
                for corpus, max_bytes in tokenizer.byte_limits.items():
                    parents += self.preparations(corpus)
                    num_bytes = min(max_bytes, self._text_bytes(corpus))
                    cost_s += num_bytes / TOKENIZER_BYTES_PER_S + self._preparing_s(corpus.source)
            self.add(
                Stage(
                    id=tokenizer_id,
                    label=label,
                    recipe=tokenizer,
                    parents=tuple(parents),
                    cost_s=cost_s,
                    role="data",
                    data=name,
                )
            )
        return tokenizer_id

    def _text_bytes(self, data: Dataset) -> float:
        if data not in self.text_bytes:
            self.text_bytes[data] = text_bytes(data)
        return self.text_bytes[data]

    def _preparing_s(self, source: Source | SourceMix | Prepared) -> float:
        """Return the seconds to prepare the built-in parts of this source, which the first stage that reads it pays."""
        parts = {part: size for part, size in unprepared_parts(source).items() if part not in self.prepared}
        self.prepared.update(parts)
        return sum(parts.values()) / PREPARING_BYTES_PER_S

    def tokens(self, data: TokenizedData) -> str:
        tokens_id = stage_id(data)
        if tokens_id not in self.stages:
            tokenizer_id, num_bytes = self.tokenizer(data.tokenizer), self._text_bytes(data.data)
            parents: tuple[str, ...] = (tokenizer_id, *self.preparations(data.data))
            cost_s = self._preparing_s(data.data.source) + num_bytes / TOKENISING_BYTES_PER_S
            if is_large(num_bytes) and not self.is_published([tokens_id]):
                bytes_per_s = self.throughput.tokenising_bytes_per_s
                divided = divide(data, tokenizer_id, text_bytes=num_bytes, bytes_per_s=bytes_per_s)
                if divided is not None:
                    for stage in divided.stages:
                        self.add(stage)
                    self.divided.append(divided)
                    parents, cost_s = (tokenizer_id, *divided.part_ids), divided.joining_s
            self.add(
                Stage(
                    id=tokens_id,
                    label=f"tokens {data.data.name}",
                    recipe=data,
                    parents=parents,
                    cost_s=DATA_STAGE_S + cost_s,
                    role="data",
                    data=data.data.name,
                )
            )
        return tokens_id

    def tokens_of(self, curriculum: Curriculum, data: Any) -> str:
        return self._tokens_memo(curriculum.start.tokenizer, data)

    def _tokens_memo(self, tokenizer: Tokenizer | ReleasedTokenizer, data: Any) -> str:
        key = (id(tokenizer), id(data))
        if key not in self._memo:
            self._memo[key] = (tokenizer, data, self.tokens(TokenizedData(data=data, tokenizer=tokenizer)))
        return self._memo[key][2]

    _memo: dict[tuple[int, int], tuple[Any, Any, str]] = field(default_factory=dict)

    def packing(self, recipe: Packing) -> str:
        """Add the stage of a packing, after the tokens of its tasks; return its id."""
        packing_id = recipe.id
        if packing_id not in self.stages:
            self.epochs[packing_id] = counts = self.counts_of(recipe)
            if counts.is_estimated:
                self.unresolved[packing_id] = recipe
            num_items = float(counts.items[-1].sum())
            self.add(
                Stage(
                    id=packing_id,
                    label=f"packing {recipe.mixture}",
                    recipe=recipe,
                    parents=tuple(self._tokens_memo(recipe.tokenizer, task) for task in recipe.mixture.tasks),
                    cost_s=DATA_STAGE_S + num_items / PACKING_ITEMS_PER_S,
                    role="data",
                    data=recipe.mixture.name,
                )
            )
        return packing_id

    def packing_of(self, curriculum: Curriculum, placed: Stretch) -> str:
        """Add the packing that a placed phase reads; return its id.

        Raises:
            RecipeError: the phase is longer than the packing.
        """
        phase, num_steps = placed.phase, placed.stop_step - placed.start_step
        packing_id = self.packing(Packing.of(phase, curriculum.start.tokenizer))
        counts = self.epochs[packing_id]
        if num_steps > counts.num_steps and not counts.is_estimated:
            assert isinstance(phase.data, TaskMixture)
            epochs = f"num_epochs={phase.data.num_epochs} of {phase.data.name}"
            raise RecipeError(
                f"phases.{phase.name}.num_steps",
                expected=f"at most {counts.num_steps:,}, the steps of {epochs}",
                got=f"{num_steps:,}",
                fix="Let steps_of give the number, or raise num_epochs.",
            )
        return packing_id

    def counts(self) -> None:
        for recipe in self.study.counts:
            parent = self._tokens_memo(recipe.tokenizer, recipe.data)
            self.add(
                Stage(
                    id=stage_id(recipe),
                    label=f"token counts {recipe.data.name}",
                    recipe=recipe,
                    parents=(parent,),
                    cost_s=recipe.num_documents * recipe.tokens_per_document / COUNTING_TOKENS_PER_S,
                    role="similarity",
                    data=recipe.data.name,
                )
            )

    # -- states -------------------------------------------------------------------------------------------------------

    def request_states(self, curriculum: Curriculum) -> None:
        """Request the states of a curriculum that are always kept, whatever else is in the study."""
        self.curricula.append(curriculum)
        if curriculum.start.weights is not None:
            self.requested.setdefault(curriculum.state_id(0), (curriculum, 0))
        for placed in curriculum.stretches:
            steps = {placed.stop_step}
            steps |= {s for s in curriculum.curve.open_segment_ends() if placed.start_step < s < placed.stop_step}
            self._request(curriculum, placed.start_step, steps)
            if placed.start_step and placed.phase.optimizer_state == "continue":
                self.continued.add(curriculum.state_id(placed.start_step))

    def request_measured(self, arm: Arm) -> None:
        """Request the states that an arm's measures read: on the arm's curriculum, or otherwise as a separate run."""
        for measure in arm.measures.values():
            for state in measure.read_states:
                own, step = arm.curriculum, state.step
                if step > own.num_steps or own.state_id(step) != state.id:
                    self._request_run(state.curriculum)
                elif step:
                    placed = next(placed for placed in own.stretches if placed.start_step < step <= placed.stop_step)
                    self._request(own, placed.start_step, {step})

    def request_needed(self, curriculum: Curriculum) -> None:
        """Request the states that are averaged into a curriculum's start, and those that try the options of its choices."""
        for run in needed_runs(curriculum, judged=self.judged):
            self._request_run(run)

    def _request_run(self, run: Curriculum) -> None:
        if run.state_id(run.num_steps) not in self.requested:
            self.request_states(run)
            self.request_needed(run)

    def request_divergences(self) -> None:
        """Request the states, inside a placed phase, after which the study's learning-rate curves diverge."""
        starts: dict[str, set[int]] = {}
        for curriculum in self.curricula:
            for first_state, segment_start in _segment_starts(curriculum):
                starts.setdefault(first_state, set()).add(segment_start)
        following: dict[str, set[str]] = {}
        candidates: list[tuple[Curriculum, int, int, str]] = []
        for curriculum in self.curricula:
            for placed in curriculum.stretches:
                for step in starts.get(curriculum.state_id(placed.start_step), ()):
                    if placed.start_step < step < placed.stop_step:
                        state_id = curriculum.state_id(step)
                        following.setdefault(state_id, set()).add(curriculum.state_id(step + 1))
                        candidates.append((curriculum, placed.start_step, step, state_id))
        for curriculum, phase_start, step, state_id in candidates:
            if len(following[state_id]) > 1:
                self._request(curriculum, phase_start, {step})

    def _request(self, curriculum: Curriculum, phase_start: int, steps: set[int]) -> None:
        first_state = curriculum.state_id(phase_start)
        known = self.kept_steps.setdefault(first_state, {state.step for state in self.kept.get(first_state, ())})
        for step in steps:
            self.requested.setdefault(curriculum.state_id(step), (curriculum, step))
            known.add(step)

    def state(self, state_id: str, kept_ids: frozenset[str]) -> str:
        """Add the stage of a requested state, after the stages that it starts from; return its id."""
        if state_id in self.stages:
            return state_id
        curriculum, step = self.requested[state_id]
        if step == 0:
            return self._first_state(curriculum, kept_ids)
        index = next(i for i, placed in enumerate(curriculum.stretches) if placed.start_step < step <= placed.stop_step)
        placed = curriculum.stretches[index]
        steps_in_phase = self.kept_steps[curriculum.state_id(placed.start_step)]
        ancestor, ancestor_step = None, 0
        for earlier in sorted(steps_in_phase, reverse=True):
            if placed.start_step < earlier < step:
                candidate = curriculum.state_id(earlier)
                # Training cannot resume from a state that was published without its optimizer.
                if candidate in kept_ids or (candidate in self.requested and candidate not in self.published):
                    ancestor, ancestor_step = candidate, earlier
                    break
        if ancestor is None and (placed.start_step > 0 or curriculum.start.weights is not None):
            ancestor, ancestor_step = curriculum.state_id(placed.start_step), placed.start_step
            if ancestor in self.published - kept_ids and state_id not in self.published:
                _check_optimizer(placed, ancestor)
        if ancestor is not None and ancestor in self.requested:
            self.state(ancestor, kept_ids)
        decisions = {choice.id: self.decision(choice, kept_ids) for choice in curriculum.until(step).choices}
        open_here = curriculum.curve.window(placed.start_step, step).choices
        phase, model = placed.phase, curriculum.start.model
        data = [self.tokens_of(curriculum, dataset) for dataset in curriculum.datasets_of(placed)]
        if isinstance(phase.data, TaskMixture):
            data.append(self.packing_of(curriculum, placed))
        is_continued = state_id in self.continued or any(later > step for later in steps_in_phase)
        keeps_optimizer = not phase.is_tuning or is_continued
        num_tokens = (step - ancestor_step) * phase.tokens_per_step
        source = self.throughput.source(model, phase.precision, seq_len=phase.seq_len)
        self.priced_by.setdefault(source, set()).add(model.name)
        self.runs[state_id] = "".join([phase.name, *(f", lr chosen by {choice.name}" for choice in open_here)])
        self.add(
            Stage(
                id=state_id,
                label=self.runs[state_id] + ("" if state_id in self.finals else f" to step {step}"),
                recipe=State(curriculum=curriculum.until(step)),
                parents=(*((ancestor,) if ancestor else ()), *data, *decisions),
                start_from=ancestor,
                continues_trunk=ancestor is not None and ancestor_step > placed.start_step,
                keeps_optimizer=keeps_optimizer,
                num_steps=step - ancestor_step,
                num_tokens=num_tokens,
                disk_bytes=checkpoint_bytes(
                    model, precision=phase.precision, optimizer=phase.optimizer if keeps_optimizer else None
                ),
                cost_s=_phase_s(phase, model, self.throughput, num_steps=step - ancestor_step),
                role=_role(placed),
                model=model.name,
                step=step,
                factors=_factors(curriculum, index),
            )
        )
        return state_id

    def states_on(self, curriculum: Curriculum, kept_ids: frozenset[str]) -> None:
        """Add the stages of all requested states that lie on a curriculum."""
        for placed in curriculum.stretches:
            for step in self.kept_steps.get(curriculum.state_id(placed.start_step), ()):
                if placed.start_step < step <= placed.stop_step:
                    state_id = curriculum.state_id(step)
                    if state_id in self.requested:
                        self.state(state_id, kept_ids)

    def _first_state(self, curriculum: Curriculum, kept_ids: frozenset[str]) -> str:
        """Add the stage of the weights of a release or an average, after those of the averaged states; return its id."""
        start, state = curriculum.start, curriculum.state(0)
        disk_bytes = checkpoint_bytes(start.model, precision=state.precision, optimizer=None)
        parents: tuple[str, ...] = ()
        if isinstance(start.weights, Average):
            averaged = start.weights.states
            parents = tuple(self.state(member.id, kept_ids) for member in averaged)
            role, label = "average", name_of_average([(self.runs[member.id], member.step) for member in averaged])
        else:
            role, label = "import", f"import {start.weights}"
        self.runs[state.id] = label
        return self.add(
            Stage(
                id=state.id,
                label=label,
                recipe=state,
                parents=parents,
                disk_bytes=disk_bytes,
                cost_s=(len(parents) + 2) * disk_bytes / FILE_BYTES_PER_S,
                role=role,
                model=start.model.name,
                step=0,
                factors=dict(start.factors),
            )
        )

    def evaluation(self, state: State, evaluation: AnyEvaluation) -> str:
        """Add the stage that evaluates a planned state, and may read another planned state; return its id."""
        recipe = StateEvaluation(state_id=state.id, evaluation=evaluation)
        if recipe.id not in self.stages:
            made, curriculum = self.stages[state.id], state.curriculum
            self.add(
                Stage(
                    id=recipe.id,
                    label=evaluation_label(recipe, lambda state_id: self.stages[state_id].label),
                    recipe=recipe,
                    parents=(state.id, self.tokens_of(curriculum, evaluation.data), *recipe.state_ids[1:]),
                    cost_s=self.throughput.evaluation_s(curriculum.start.model, state.precision, evaluation),
                    role="evaluation",
                    model=made.model,
                    step=made.step,
                    data=evaluation.data.name,
                    split=evaluation.split,
                    factors=made.factors,
                )
            )
        return recipe.id

    def decision(self, choice: Choice, kept_ids: frozenset[str]) -> str:
        """Add the stage that makes a choice, after its candidates and their evaluations; return its id."""
        if choice.id not in self.stages:
            candidates, evaluation = choice.candidates, choice.evaluation
            for state in candidates:
                if state.id in self.requested:
                    self.state(state.id, kept_ids)
                    self.evaluation(state, evaluation)
            shared = [pair for pair in candidates[0].factors if all(pair in state.factors for state in candidates)]
            self.add(
                Stage(
                    id=choice.id,
                    label=f"choose {choice.name} on {choice.judged_on}",
                    recipe=choice,
                    parents=tuple(StateEvaluation(state_id=state.id, evaluation=evaluation).id for state in candidates),
                    role="decision",
                    model=candidates[0].curriculum.start.model.name,
                    data=evaluation.data.name,
                    split=evaluation.split,
                    factors=dict(shared),
                )
            )
        return choice.id


def _segment_starts(curriculum: Curriculum) -> Iterable[tuple[str, int]]:
    """Yield where a learning-rate segment begins inside a placed phase: (id of the phase's first state, step)."""
    for placed in curriculum.stretches:
        for segment in curriculum.curve.segments:
            if placed.start_step < segment.start_step < placed.stop_step:
                yield curriculum.state_id(placed.start_step), segment.start_step


def _check_optimizer(placed: Stretch, from_state: str) -> None:
    """Raise `RecipeError` if the phase continues the optimizer of a state that was published without it."""
    phase = placed.phase
    if phase.optimizer_state == "continue":
        raise RecipeError(
            f"phases.{phase.name}.optimizer_state",
            expected="reset, or a state that was published with its optimizer",
            got=f"continue, from state {from_state} (step {placed.start_step}), which the store has without its optimizer",
            fix='Set optimizer_state="reset", or run this study in a new store, which will keep the optimizer.',
        )


def _role(placed: Stretch) -> str:
    data = placed.phase.data
    if isinstance(data, Rollouts):
        return "rl"
    if placed.phase.is_tuning:
        return "sft"
    return "midtrain" if isinstance(data, TaskData) or data.specialist_corpora else "pretrain"


def _factors(curriculum: Curriculum, index: int) -> dict[str, Value]:
    """Return the factors of the start and of the phases up to and including phase `index`."""
    phases = (placed.phase.factors for placed in curriculum.stretches[: index + 1])
    return dict(joined(curriculum.start.factors, *phases))


def make_plan(
    study: Study,
    *,
    throughput: Throughput,
    published: Callable[[Iterable[str]], set[str]],
    kept_states: Iterable[KeptState],
    counts_of: CountsOf = estimated_counts,
) -> Plan:
    """Expand `study` into its stages.

    Args:
        throughput: rates that give the cost of stages.
        published: returns those of the given stage ids that have a record.
        kept_states: published states of any study in the store that training may resume from.
        counts_of: what packings read.

    Raises:
        RecipeError: a measure uses the random weights of a start, a phase continues the optimizer of a state that was
            published without it, or a phase is longer than the epochs of its mixture of tasks.
    """
    kept: dict[str, list[KeptState]] = {}
    for state in kept_states:
        kept.setdefault(state.stretch_from, []).append(state)
    kept_ids = frozenset(state.id for states in kept.values() for state in states)
    builder = _Builder(study=study, throughput=throughput, kept=kept, is_published=published, counts_of=counts_of)
    builder.finals = {arm.final_state.id for arm in study.arms}
    builder.finals |= {state.id for choice in study.choices for state in choice.candidates}
    builder.judged = _judged(study, published)
    for arm in study.arms:
        builder.request_states(arm.curriculum)
    for index, arm in enumerate(study.arms):
        with inside(f"study.arms[{index}]"):
            _check_measured(arm)
        builder.request_measured(arm)
        builder.request_needed(arm.curriculum)
    builder.request_divergences()
    builder.published = published(builder.requested)
    arms = []
    for arm in study.arms:
        builder.state(arm.final_state.id, kept_ids)
        builder.states_on(arm.curriculum, kept_ids)
        measures = {}
        for column, measure in arm.measures.items():
            for read in measure.read_states:
                builder.state(read.id, kept_ids)
            measures[column] = tuple(builder.evaluation(state, measure.evaluation) for state in measure.all_states)
        arms.append(ArmStages(arm=arm, state=arm.final_state.id, measures=measures))
    for curriculum in builder.curricula:
        builder.states_on(curriculum, kept_ids)
    builder.counts()
    for packing in study.packings:
        builder.packing(packing)
    stages = with_unique_labels(builder.stages)
    alone = [run for arm in study.arms for run in runs_alone(arm.curriculum)]
    return Plan(
        study=study,
        stages=stages,
        published=frozenset(published(stages)),
        arms=tuple(arms),
        lower_bound_steps=distinct_steps(builder.curricula),
        unshared_steps=sum(curriculum.num_steps for curriculum in alone),
        unshared_s=sum(_training_s(curriculum, throughput) for curriculum in alone)
        + device_s(throughput.device, (stage for stage in stages.values() if not stage.num_steps)),
        throughput=throughput,
        priced_by={source: tuple(sorted(names)) for source, names in builder.priced_by.items()},
        workloads=_workloads(stage for stage in stages.values() if stage.id not in builder.published),
        divided=tuple(builder.divided),
        epochs=builder.epochs,
        unresolved=tuple(builder.unresolved.values()),
    )


def _judged(study: Study, published: Callable[[Iterable[str]], set[str]]) -> set[str]:
    """Return the ids of candidates without a record whose decisions have one."""
    made = published(choice.id for choice in study.choices)
    needed = {state.id for choice in study.choices if choice.id not in made for state in choice.candidates}
    candidates = {state.id for choice in study.choices for state in choice.candidates} - needed
    return candidates - published(candidates)


def _check_measured(arm: Arm) -> None:
    """Raise `RecipeError` if a measure uses random weights: they are drawn in the first training stage, not published."""
    for column, measure in arm.measures.items():
        for state in measure.read_states:
            if state.step == 0 and state.curriculum.start.weights is None:
                raise RecipeError(
                    f"measures.{column}.state",
                    expected="a state after at least one step",
                    got="the random weights of a start",
                )


def _workloads(stages: Iterable[Stage]) -> tuple[Workload, ...]:
    """Return one workload per trained shape and precision: that of the stage with the most tokens."""
    largest: dict[tuple[str, str], tuple[int, Workload]] = {}
    for stage in stages:
        if isinstance(stage.recipe, State) and stage.num_steps:
            curriculum = stage.recipe.curriculum
            phase, model = curriculum.stretches[-1].phase, curriculum.start.model
            kind = (model.name, phase.precision)
            if kind not in largest or stage.num_tokens > largest[kind][0]:
                largest[kind] = stage.num_tokens, Workload(model, phase.precision, phase.seq_len, phase.num_sequences)
    return tuple(workload for _, workload in largest.values())


def device_s(device: Device, stages: Iterable[Stage]) -> float:
    """Return the expected seconds of a device for these stages.

    For a GPU, only training and evaluation count, since data, counts and initial weights are made on CPUs.
    """
    return sum(stage.cost_s for stage in stages if device.name == CPU_CORE.name or on_gpu(stage))


def on_gpu(stage: Stage) -> bool:
    """Return whether a stage computes on a GPU where there is one: training and evaluation."""
    return stage.num_steps > 0 or isinstance(stage.recipe, StateEvaluation)


def _training_s(curriculum: Curriculum, throughput: Throughput) -> float:
    return sum(
        _phase_s(placed.phase, curriculum.start.model, throughput, num_steps=placed.stop_step - placed.start_step)
        for placed in curriculum.stretches
    )


def _phase_s(phase: Phase, model: AnyShape, throughput: Throughput, *, num_steps: int) -> float:
    num_tokens = num_steps * phase.tokens_per_step
    cost_s = throughput.training_s(
        model,
        phase.precision,
        num_tokens=num_tokens,
        seq_len=phase.seq_len,
        of_updates=num_steps * phase.optimizer.flops_per_update(model),
    )
    if isinstance(phase.data, Rollouts):  # every token is generated before it is trained on
        cost_s += throughput.forward_s(model, phase.precision, num_tokens=num_tokens, seq_len=phase.seq_len)
    return cost_s
