"""Expands a study into stages: every shared step once, trunks milestoned where curricula part.

A state is kept where a phase begins or ends, where a segment of the learning rate that has no end gives way (a longer run
will leave there), where two curricula of the study part, where an average takes it in, and where some other study's kept
state already lies. Each kept state is trained from the nearest kept state before it on its own past. The runs behind an
average are curricula of the study like those of its arms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from midstudy.data.size import text_bytes, unprepared_parts
from midstudy.plan.averages import averaged_runs, name_of_average, runs_alone
from midstudy.plan.cost import (
    COUNTING_TOKENS_PER_S,
    DATA_STAGE_S,
    FILE_BYTES_PER_S,
    PREPARING_BYTES_PER_S,
    TOKENISING_BYTES_PER_S,
    TOKENIZER_BYTES_PER_S,
    Throughput,
    Workload,
    checkpoint_bytes,
)
from midstudy.plan.device import CPU_CORE, Device
from midstudy.plan.labels import with_labels_of_their_own
from midstudy.plan.left_out import LeftOut
from midstudy.plan.sharing import distinct_steps
from midstudy.recipe.curriculum import Curriculum, State, Stretch
from midstudy.recipe.data import Dataset, ReleasedTokenizer, Source, Task, TokenizedData, Tokenizer
from midstudy.recipe.errors import RecipeError, inside
from midstudy.recipe.factors import Value, joined
from midstudy.recipe.measure import Evaluation, StateEvaluation
from midstudy.recipe.stage import Stage, stage_id
from midstudy.recipe.start_weights import Average
from midstudy.recipe.study import Arm, Study


@dataclass(frozen=True)
class KeptState:
    """A published state of any study: the id of its stretch's first state, and its step."""

    stretch_from: str
    step: int
    id: str


@dataclass(frozen=True)
class ArmStages:
    """The stages an arm's row of the table is read from."""

    arm: Arm
    state: str
    measures: Mapping[str, tuple[str, ...]]
    """The evaluations behind each measured column, in the order of its states."""


@dataclass(frozen=True)
class Plan:
    """The stages of a study in an order in which parents come first, and what is already there."""

    study: Study
    stages: Mapping[str, Stage]
    published: frozenset[str]
    arms: tuple[ArmStages, ...]
    lower_bound_steps: int
    unshared_steps: int
    unshared_s: float
    """Expected seconds of one device for the whole study with every arm trained on its own, data and evaluations once."""
    throughput: Throughput
    priced_by: Mapping[str, tuple[str, ...]]
    """Names of the model shapes by the source of their rate, as in `Throughput.source`."""
    left_out: LeftOut = field(default_factory=LeftOut)
    """What the finished data stages left out; empty without a store."""
    workloads: tuple[Workload, ...] = ()
    """One workload per shape and precision of the missing states: that of the state with the most tokens."""

    @property
    def missing(self) -> list[Stage]:
        """Stages that have no record yet."""
        return [stage for stage in self.stages.values() if stage.id not in self.published]

    @property
    def total_steps(self) -> int:
        """Training steps of all stages, finished ones included."""
        return sum(stage.num_steps for stage in self.stages.values())

    @property
    def missing_steps(self) -> int:
        return sum(stage.num_steps for stage in self.missing)

    @property
    def missing_bytes(self) -> int:
        """Bytes on disk of the checkpoints that are missing."""
        return sum(stage.disk_bytes for stage in self.missing)

    @property
    def missing_s(self) -> float:
        """Expected seconds of one device for what is missing; of a GPU, for what runs a model there."""
        return device_s(self.throughput.device, self.missing)


@dataclass
class _Builder:
    study: Study
    throughput: Throughput
    kept: Mapping[str, list[KeptState]]
    stages: dict[str, Stage] = field(default_factory=dict)
    requested: dict[str, tuple[Curriculum, int]] = field(default_factory=dict)
    curricula: list[Curriculum] = field(default_factory=list)
    finals: set[str] = field(default_factory=set)
    """Last states of arms, which are called by their phase alone."""
    steps_on_line: dict[str, set[int]] = field(default_factory=dict)
    priced_by: dict[str, set[str]] = field(default_factory=dict)
    published: set[str] = field(default_factory=set)
    continued: set[str] = field(default_factory=set)
    text_bytes: dict[Dataset, float] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)
    """Built-in parts whose preparation is already charged to a stage."""
    runs: dict[str, str] = field(default_factory=dict)
    """Name of the run that each planned state is of: its label without its step."""

    def add(self, stage: Stage) -> str:
        self.stages.setdefault(stage.id, stage)
        return stage.id

    # -- data ---------------------------------------------------------------------------------------------------------

    def tokenizer(self, tokenizer: Tokenizer | ReleasedTokenizer) -> str:
        identity = stage_id(tokenizer)
        if identity not in self.stages:
            if isinstance(tokenizer, Tokenizer):
                name, label = tokenizer.corpus.name, f"tokenizer {tokenizer.vocab_size:,} on {tokenizer.corpus.name}"
            else:
                name, label = tokenizer.name, f"tokenizer {tokenizer.vocab_size:,} of {tokenizer.name}"
            cost_s = DATA_STAGE_S
            if isinstance(tokenizer, Tokenizer):
                num_bytes = min(tokenizer.max_bytes, self._text_bytes(tokenizer.corpus))
                cost_s += num_bytes / TOKENIZER_BYTES_PER_S + self._preparing_s(tokenizer.corpus.source)
            self.add(Stage(id=identity, label=label, recipe=tokenizer, parents=(), cost_s=cost_s, role="data", data=name))
        return identity

    def _text_bytes(self, data: Dataset) -> float:
        if data not in self.text_bytes:
            self.text_bytes[data] = text_bytes(data)
        return self.text_bytes[data]

    def _preparing_s(self, source: Source) -> float:
        """Seconds to prepare the built-in parts this source needs, charged to the first stage that reads it."""
        parts = {part: size for part, size in unprepared_parts(source).items() if part not in self.prepared}
        self.prepared.update(parts)
        return sum(parts.values()) / PREPARING_BYTES_PER_S

    def tokens(self, data: TokenizedData) -> str:
        identity = stage_id(data)
        if identity not in self.stages:
            self.add(
                Stage(
                    id=identity,
                    label=f"tokens {data.data.name}",
                    recipe=data,
                    parents=(self.tokenizer(data.tokenizer),),
                    cost_s=DATA_STAGE_S
                    + self._preparing_s(data.data.source)
                    + self._text_bytes(data.data) / TOKENISING_BYTES_PER_S,
                    role="data",
                    data=data.data.name,
                )
            )
        return identity

    def tokens_of(self, curriculum: Curriculum, data: Any) -> str:
        return self._tokens_memo(curriculum.start.tokenizer, data)

    def _tokens_memo(self, tokenizer: Tokenizer | ReleasedTokenizer, data: Any) -> str:
        key = (id(tokenizer), id(data))
        if key not in self._memo:
            self._memo[key] = (tokenizer, data, self.tokens(TokenizedData(data=data, tokenizer=tokenizer)))
        return self._memo[key][2]

    _memo: dict[tuple[int, int], tuple[Any, Any, str]] = field(default_factory=dict)

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
        """Ask for the states of a curriculum that are kept whatever else the study holds."""
        self.curricula.append(curriculum)
        if curriculum.start.weights is not None:
            self.requested.setdefault(curriculum.state_id(0), (curriculum, 0))
        for stretch in curriculum.stretches:
            steps = {stretch.stop_step}
            steps |= {s for s in curriculum.curve.open_segment_ends() if stretch.start_step < s < stretch.stop_step}
            self._request(curriculum, stretch.start_step, steps)
            if stretch.start_step and stretch.phase.optimizer_state == "continue":
                self.continued.add(curriculum.state_id(stretch.start_step))

    def request_measured(self, arm: Arm) -> None:
        """Ask for the states that an arm's measures name: on its own curriculum, or else as those of a run of their own."""
        for measure in arm.measures.values():
            for state in measure.all_states:
                own, step = arm.curriculum, state.step
                if step > own.num_steps or own.state_id(step) != state.id:
                    self._request_run(state.curriculum)
                elif step:
                    stretch = next(one for one in own.stretches if one.start_step < step <= one.stop_step)
                    self._request(own, stretch.start_step, {step})

    def request_averaged(self, curriculum: Curriculum) -> None:
        """Ask for the states that are averaged to begin a curriculum."""
        for run in averaged_runs(curriculum):
            self._request_run(run)

    def _request_run(self, run: Curriculum) -> None:
        if run.state_id(run.num_steps) not in self.requested:
            self.request_states(run)
            self.request_averaged(run)

    def request_partings(self) -> None:
        """Ask for the states, inside a stretch, after which the study's learning-rate curves part."""
        starts: dict[str, set[int]] = {}
        for curriculum in self.curricula:
            for line, _, segment_start in _segment_starts(curriculum):
                starts.setdefault(line, set()).add(segment_start)
        following: dict[str, set[str]] = {}
        inside: list[tuple[Curriculum, int, int, str]] = []
        for curriculum in self.curricula:
            for stretch in curriculum.stretches:
                for step in starts.get(curriculum.state_id(stretch.start_step), ()):
                    if stretch.start_step < step < stretch.stop_step:
                        identity = curriculum.state_id(step)
                        following.setdefault(identity, set()).add(curriculum.state_id(step + 1))
                        inside.append((curriculum, stretch.start_step, step, identity))
        for curriculum, stretch_start, step, identity in inside:
            if len(following[identity]) > 1:
                self._request(curriculum, stretch_start, {step})

    def _request(self, curriculum: Curriculum, stretch_start: int, steps: set[int]) -> None:
        line = curriculum.state_id(stretch_start)
        known = self.steps_on_line.setdefault(line, {k.step for k in self.kept.get(line, ())})
        for step in steps:
            self.requested.setdefault(curriculum.state_id(step), (curriculum, step))
            known.add(step)

    def state(self, identity: str, kept_ids: frozenset[str]) -> str:
        """The stage that makes a requested state; its ancestors are planned first."""
        if identity in self.stages:
            return identity
        curriculum, step = self.requested[identity]
        if step == 0:
            return self._first_state(curriculum, kept_ids)
        index = next(i for i, s in enumerate(curriculum.stretches) if s.start_step < step <= s.stop_step)
        stretch = curriculum.stretches[index]
        ancestor, ancestor_step = None, 0
        for earlier in sorted(self.steps_on_line[curriculum.state_id(stretch.start_step)], reverse=True):
            if stretch.start_step < earlier < step:
                candidate = curriculum.state_id(earlier)
                # A published state that kept no optimizer is no place to go on from.
                if candidate in kept_ids or (candidate in self.requested and candidate not in self.published):
                    ancestor, ancestor_step = candidate, earlier
                    break
        if ancestor is None and (stretch.start_step > 0 or curriculum.start.weights is not None):
            ancestor, ancestor_step = curriculum.state_id(stretch.start_step), stretch.start_step
            if ancestor in self.published - kept_ids and identity not in self.published:
                _check_goes_on(stretch, ancestor)
        if ancestor is not None and ancestor in self.requested:
            self.state(ancestor, kept_ids)
        phase, model = stretch.phase, curriculum.start.model
        data = [self.tokens_of(curriculum, one) for one in curriculum.datasets_of(stretch)]
        line = self.steps_on_line[curriculum.state_id(stretch.start_step)]
        keeps_optimizer = not isinstance(phase.data, Task) or identity in self.continued or any(s > step for s in line)
        num_tokens = (step - ancestor_step) * phase.tokens_per_step
        source = self.throughput.source(model, phase.precision, seq_len=phase.seq_len)
        self.priced_by.setdefault(source, set()).add(model.name)
        self.runs[identity] = phase.name
        self.add(
            Stage(
                id=identity,
                label=phase.name if identity in self.finals else f"{phase.name} to step {step}",
                recipe=State(curriculum=curriculum.until(step)),
                parents=(*((ancestor,) if ancestor else ()), *data),
                start_from=ancestor,
                continues_trunk=ancestor is not None and ancestor_step > stretch.start_step,
                keeps_optimizer=keeps_optimizer,
                num_steps=step - ancestor_step,
                num_tokens=num_tokens,
                disk_bytes=checkpoint_bytes(model, precision=phase.precision, with_optimizer=keeps_optimizer),
                cost_s=self.throughput.training_s(model, phase.precision, num_tokens=num_tokens, seq_len=phase.seq_len),
                role=_role(stretch),
                model=model.name,
                step=step,
                factors=_factors(curriculum, index),
            )
        )
        return identity

    def states_on(self, curriculum: Curriculum, kept_ids: frozenset[str]) -> None:
        """Plan every requested state that lies on a curriculum."""
        for stretch in curriculum.stretches:
            for step in self.steps_on_line.get(curriculum.state_id(stretch.start_step), ()):
                if stretch.start_step < step <= stretch.stop_step:
                    identity = curriculum.state_id(step)
                    if identity in self.requested:
                        self.state(identity, kept_ids)

    def _first_state(self, curriculum: Curriculum, kept_ids: frozenset[str]) -> str:
        """The stage that makes the weights of a release or an average; the states of an average are planned first."""
        start, state = curriculum.start, curriculum.state(0)
        disk_bytes = checkpoint_bytes(start.model, precision=state.precision, with_optimizer=False)
        parents: tuple[str, ...] = ()
        if isinstance(start.weights, Average):
            parents = tuple(self.state(one.id, kept_ids) for one in start.weights.states)
            role, label = "average", name_of_average([(self.runs[one.id], one.step) for one in start.weights.states])
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

    def evaluation(self, state: State, evaluation: Evaluation) -> str:
        """The stage that evaluates a planned state."""
        recipe = StateEvaluation(state_id=state.id, evaluation=evaluation)
        identity = recipe.id
        if identity not in self.stages:
            made, curriculum = self.stages[state.id], state.curriculum
            self.add(
                Stage(
                    id=identity,
                    label=f"evaluate {made.label} on {evaluation.data.name} {evaluation.split}",
                    recipe=recipe,
                    parents=(state.id, self.tokens_of(curriculum, evaluation.data)),
                    cost_s=self.throughput.evaluation_s(curriculum.start.model, state.precision, evaluation),
                    role="evaluation",
                    model=made.model,
                    step=made.step,
                    data=evaluation.data.name,
                    split=evaluation.split,
                    factors=made.factors,
                )
            )
        return identity


def _segment_starts(curriculum: Curriculum) -> Iterable[tuple[str, int, int]]:
    """(id of the stretch's first state, its step, step) where a learning-rate segment begins inside a stretch."""
    for stretch in curriculum.stretches:
        for segment in curriculum.curve.segments:
            if stretch.start_step < segment.start_step < stretch.stop_step:
                yield curriculum.state_id(stretch.start_step), stretch.start_step, segment.start_step


def _check_goes_on(stretch: Stretch, from_state: str) -> None:
    """A phase that continues the optimizer needs a state that kept it."""
    phase = stretch.phase
    if phase.optimizer_state == "continue":
        raise RecipeError(
            f"phases.{phase.name}.optimizer_state",
            expected="reset, or a state that was published with its optimizer",
            got=f"continue, from state {from_state} (step {stretch.start_step}) that the store has without its optimizer",
            fix='Set optimizer_state="reset", or run this study in a new store, where the state will be made with it.',
        )


def _role(stretch: Stretch) -> str:
    data = stretch.phase.data
    if isinstance(data, Task):
        return "sft"
    return "midtrain" if data.specialist_corpora else "pretrain"


def _factors(curriculum: Curriculum, index: int) -> dict[str, Value]:
    """The factors of the start and of the phases up to and including stretch `index`."""
    phases = (stretch.phase.factors for stretch in curriculum.stretches[: index + 1])
    return dict(joined(curriculum.start.factors, *phases))


def make_plan(
    study: Study,
    *,
    throughput: Throughput,
    published: Callable[[Iterable[str]], set[str]],
    kept_states: Iterable[KeptState],
) -> Plan:
    """Expand `study` into its stages.

    Args:
        throughput: what a token costs.
        published: of these stage ids, those that have a record.
        kept_states: published states of any study in the store, which training may go on from.

    Raises:
        RecipeError: a measure names the random weights of a start, or a phase continues the optimizer of a state that was
            published without it.
    """
    kept: dict[str, list[KeptState]] = {}
    for state in kept_states:
        kept.setdefault(state.stretch_from, []).append(state)
    kept_ids = frozenset(state.id for states in kept.values() for state in states)
    builder = _Builder(study=study, throughput=throughput, kept=kept)
    builder.finals = {arm.final_state.id for arm in study.arms}
    for arm in study.arms:
        builder.request_states(arm.curriculum)
    for index, arm in enumerate(study.arms):
        with inside(f"study.arms[{index}]"):
            _check_measured(arm)
        builder.request_measured(arm)
        builder.request_averaged(arm.curriculum)
    builder.request_partings()
    builder.published = published(builder.requested)
    arms = []
    for arm in study.arms:
        builder.state(arm.final_state.id, kept_ids)
        builder.states_on(arm.curriculum, kept_ids)
        measures = {}
        for column, measure in arm.measures.items():
            for measured in measure.all_states:
                builder.state(measured.id, kept_ids)
            measures[column] = tuple(builder.evaluation(one, measure.evaluation) for one in measure.all_states)
        arms.append(ArmStages(arm=arm, state=arm.final_state.id, measures=measures))
    for curriculum in builder.curricula:
        builder.states_on(curriculum, kept_ids)
    builder.counts()
    stages = with_labels_of_their_own(builder.stages)
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
    )


def _check_measured(arm: Arm) -> None:
    """Random weights are drawn inside the first training stage and are never published."""
    for column, measure in arm.measures.items():
        for state in measure.all_states:
            if state.step == 0 and state.curriculum.start.weights is None:
                raise RecipeError(
                    f"measures.{column}.state",
                    expected="states after at least one step",
                    got="the random weights of a start",
                )


def _workloads(stages: Iterable[Stage]) -> tuple[Workload, ...]:
    """One workload per trained shape and precision: that of the stage with the most tokens."""
    found: dict[tuple[str, str], tuple[int, Workload]] = {}
    for stage in stages:
        if isinstance(stage.recipe, State) and stage.num_steps:
            curriculum = stage.recipe.curriculum
            phase, model = curriculum.stretches[-1].phase, curriculum.start.model
            kind = (model.name, phase.precision)
            if kind not in found or stage.num_tokens > found[kind][0]:
                found[kind] = stage.num_tokens, Workload(model, phase.precision, phase.seq_len, phase.num_sequences)
    return tuple(workload for _, workload in found.values())


def device_s(device: Device, stages: Iterable[Stage]) -> float:
    """Expected seconds of a device for these stages: data, counts and first weights are made on processors."""
    on_gpu = device.name != CPU_CORE.name
    return sum(
        stage.cost_s for stage in stages if not on_gpu or stage.num_steps > 0 or isinstance(stage.recipe, StateEvaluation)
    )


def _training_s(curriculum: Curriculum, throughput: Throughput) -> float:
    return sum(
        throughput.training_s(
            curriculum.start.model,
            stretch.phase.precision,
            num_tokens=(stretch.stop_step - stretch.start_step) * stretch.phase.tokens_per_step,
            seq_len=stretch.phase.seq_len,
        )
        for stretch in curriculum.stretches
    )
