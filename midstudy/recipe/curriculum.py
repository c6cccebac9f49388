"""Curricula (the paper's training sequences) and their states. A state's id depends only on the training before it.

A curriculum is kept in normal form: phases with zero steps are dropped, equal neighbouring phases are merged, a mixture
ramp becomes a constant mixture where it ends, and the learning rate is one curve over the curriculum's steps. The id of
the state after s steps is

    id(s) = H(id at the start of the placed phase; its phase without its end; its LR curve at steps < s; s)

so milestones, evaluations, the length of the run and everything else at or after step s do not change it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from midstudy.recipe.canonical import added_field, canonical, canonical_text, expanded, identify, label_field
from midstudy.recipe.choice import Choice
from midstudy.recipe.curve import Curve
from midstudy.recipe.data import Dataset, ReleasedTokenizer, Tokenizer
from midstudy.recipe.errors import RecipeError, inside, require_whole
from midstudy.recipe.factors import Factors, joined, require_factors
from midstudy.recipe.mixture import Mixture, MixtureRamp
from midstudy.recipe.phase import Phase
from midstudy.recipe.plain import hold_plain_numbers, plain
from midstudy.recipe.shape import AnyShape
from midstudy.recipe.start_weights import Average, Release
from midstudy.recipe.task_data import TaskData


@dataclass(frozen=True, kw_only=True)
class Start:
    """The start of a curriculum: a model, its initial weights and its tokenizer.

    The weights are either drawn from `seed` or given by `weights` (a release or an average); in the second case `seed` is
    `None`. `midstudy.data.release.released_start` builds the start for a release, `Start.averaged` for an average.
    """

    model: AnyShape
    tokenizer: Tokenizer | ReleasedTokenizer
    seed: int | None
    weights: Release | Average | None = added_field(omit_at=None)
    factors: Factors = label_field(default=())

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_factors("start.factors", self.factors)
        if (self.seed is None) == (self.weights is None):
            raise RecipeError(
                "start.seed",
                expected="a seed if the weights are drawn, or None if they come from a release or an average",
                got=self.seed,
            )
        if self.seed is not None:
            require_whole("start.seed", self.seed, what="a seed")
        if isinstance(self.weights, Average):
            source = self.weights.states[0].curriculum.start
            for field in ("model", "tokenizer"):
                if identify(getattr(self, field)) != identify(getattr(source, field)):
                    raise RecipeError(
                        f"start.{field}",
                        expected=f"the {field} of the averaged states",
                        got="a different one",
                        fix="Build the start with Start.averaged.",
                    )
        if self.model.vocab_size < self.tokenizer.vocab_size:
            raise RecipeError(
                "model.vocab_size",
                expected=f"at least the tokenizer's {self.tokenizer.vocab_size}",
                got=self.model.vocab_size,
            )

    @classmethod
    def averaged(cls, weights: Average, *, factors: Factors = ()) -> Start:
        """Return the start whose weights are an average of states.

        It has the model and tokenizer of the states. Its factors are those on which all states agree, then `factors`.
        """
        source = weights.states[0].curriculum.start
        shared = [pair for pair in weights.states[0].factors if all(pair in state.factors for state in weights.states)]
        return cls(
            model=source.model,
            tokenizer=source.tokenizer,
            seed=None,
            weights=weights,
            factors=joined(tuple(shared), factors),
        )

    @cached_property
    def id(self) -> str:
        return identify(self)


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A placed phase: a phase and the range of updates it covers, from state `start_step` to state `stop_step`."""

    phase: Phase
    start_step: int
    stop_step: int


# Fields left out of a phase's digest: its length, and its schedule, which the curve already holds in absolute steps.
_OMITTED_FIELDS = ("num_steps", "schedule")
_TAKE_OVER_FIELDS = ("optimizer_state", "data_positions")


def _phase_form(phase: Phase, *, first: bool) -> Any:
    form = canonical(phase)
    for name in _OMITTED_FIELDS + (_TAKE_OVER_FIELDS if first else ()):  # the first phase has nothing to take over
        form.pop(name, None)
    return form


_digests: dict[tuple[int, bool], tuple[Phase, str]] = {}


def _phase_digest(phase: Phase, *, first: bool) -> str:
    """Return the digest of a phase as it enters state ids. Cached by object: a grid shares phases between many arms."""
    key = (id(phase), first)
    known = _digests.get(key)
    if known is None or known[0] is not phase:
        known = (phase, identify(_phase_form(phase, first=first)))
        _digests[key] = known
    return known[1]


def _same_but_length(before: Phase, after: Phase, *, first: bool) -> bool:
    if after.optimizer_state != "continue" or after.data_positions != "continue":
        return False
    if isinstance(after.data, MixtureRamp):  # a ramp starts from the beginning, so it cannot be merged
        return False
    if first:
        return _phase_digest(before, first=True) == _phase_digest(after, first=True)
    taken_over = dataclasses.replace(before, optimizer_state="continue", data_positions="continue")
    return identify(_phase_form(taken_over, first=False)) == _phase_digest(after, first=False)


def _check_tied_head(phase: Phase, model: AnyShape) -> None:
    """A tied model has one parameter for both groups; other numbers for its head would be ignored, under another id."""
    groups = {group.select: group for group in phase.optimizer.groups}
    if model.is_tied and groups and dataclasses.replace(groups["head"], select="embedding") != groups["embedding"]:
        raise RecipeError(
            f"phases.{phase.name}.optimizer.groups.head",
            expected="the numbers of group embedding, since the output head of this model is its embedding",
            got="others",
        )


def _check_data_positions(after: Phase, earlier: tuple[Stretch, ...]) -> None:
    """Raise `RecipeError` if `after` says that its data positions continue and they cannot."""
    path = f"phases.{after.name}"
    if after.data_positions == "reset":
        return
    before = earlier[-1].phase
    if isinstance(before.data, TaskData) or isinstance(after.data, TaskData):
        raise RecipeError(f"{path}.data_positions", expected="reset after a task", got="continue")
    for field in ("seq_len", "seed"):
        if getattr(before, field) != getattr(after, field):
            raise RecipeError(
                f"{path}.{field}",
                expected=f"{getattr(before, field)}, as in the previous phase, while data positions continue",
                got=getattr(after, field),
                fix='Set data_positions="reset" to start a new data order.',
            )
    bases, specialists = {after.data.base_corpus}, {*after.data.specialist_corpora}
    for placed in reversed(earlier):
        assert not isinstance(placed.phase.data, TaskData)
        bases.add(placed.phase.data.base_corpus)
        specialists |= {*placed.phase.data.specialist_corpora}
        if placed.phase.data_positions == "reset":
            break
    if in_both_roles := bases & specialists:
        name = sorted(corpus.name for corpus in in_both_roles if corpus)[0]
        raise RecipeError(
            f"{path}.data",
            expected="one role for each corpus while data positions continue",
            got=f"corpus {name} as the base in one phase and as a specialist in another",
            fix='Set data_positions="reset", or give the corpus the same role in both phases.',
        )


def _check_optimizer_state(after: Phase, before: Phase) -> None:
    """Raise `RecipeError` if `after` continues the optimizer state of another rule, whose moments it cannot use."""
    rules = ["AdamW" if phase.optimizer.muon is None else "Muon" for phase in (before, after)]
    if after.optimizer_state == "continue" and rules[0] != rules[1]:
        raise RecipeError(
            f"phases.{after.name}.optimizer",
            expected=f"{rules[0]} for matrices, as in phase {before.name}, while the optimizer state continues",
            got=rules[1],
            fix='Set optimizer_state="reset" to start a new optimizer.',
        )


def _in_normal_form(phase: Phase) -> tuple[Phase, ...]:
    """Split the phase where its mixture ramp ends; replace a ramp between equal mixtures by that mixture."""
    ramp = phase.data
    if not isinstance(ramp, MixtureRamp):
        return (phase,)
    if ramp.is_constant:
        return (dataclasses.replace(phase, data=ramp.to_mixture),)
    rest = dataclasses.replace(
        phase,
        data=ramp.to_mixture,
        num_steps=max(0, phase.num_steps - ramp.num_steps),
        optimizer_state="continue",
        data_positions="continue",
    )
    return (dataclasses.replace(phase, num_steps=phase.num_steps - rest.num_steps), *((rest,) if rest.num_steps else ()))


@dataclass(frozen=True, kw_only=True)
class Curriculum:
    """A training sequence in normal form. Build it with `Curriculum.of`, `then` and `branch`."""

    start: Start
    stretches: tuple[Stretch, ...]
    curve: Curve

    @classmethod
    def of(cls, start: Start, *phases: Phase) -> Curriculum:
        """Return the curriculum of these phases, in this order.

        Raises:
            RecipeError: the first phase has no schedule, a phase's sequences are longer than the model allows, or a phase
                says that it continues something it cannot continue.
        """
        curriculum = cls(start=start, stretches=(), curve=Curve(()))
        for phase in phases:
            curriculum = curriculum.then(phase)
        return curriculum

    def then(self, phase: Phase) -> Curriculum:
        """Return this curriculum followed by `phase`. A phase with zero steps only adds its factors.

        Raises:
            RecipeError: as for `Curriculum.of`.
        """
        if phase.num_steps == 0:
            return self._labelled(phase.factors)
        if phase.seq_len > self.start.model.max_seq_len:
            raise RecipeError(
                f"phases.{phase.name}.seq_len",
                expected=f"at most the model's {self.start.model.max_seq_len} tokens",
                got=phase.seq_len,
            )
        _check_tied_head(phase, self.start.model)
        curve = self.curve
        if phase.schedule is not None:
            with inside(f"phases.{phase.name}"):
                curve = phase.schedule.after(self.curve, step=self.num_steps)
        elif not self.stretches:
            raise RecipeError(
                f"phases.{phase.name}.schedule", expected="a schedule, since the first phase has none to continue", got=None
            )
        return self._followed_by(phase, curve)

    def _followed_by(self, phase: Phase, curve: Curve) -> Curriculum:
        """Return this curriculum followed by `phase` in normal form, with `curve` as its learning rate."""
        longer = self
        for part in _in_normal_form(phase):
            here, stretches = longer.num_steps, longer.stretches
            if not stretches:  # nothing to take over: store one fixed value, so that equal ids have equal recipes
                part = dataclasses.replace(part, optimizer_state="reset", data_positions="reset")
            else:
                _check_data_positions(part, stretches)
                _check_optimizer_state(part, stretches[-1].phase)
            if stretches and _same_but_length(stretches[-1].phase, part, first=len(stretches) == 1):
                last = stretches[-1]
                labelled = dataclasses.replace(last.phase, factors=joined(last.phase.factors, part.factors))
                merged = dataclasses.replace(last, phase=labelled, stop_step=here + part.num_steps)
                stretches = (*stretches[:-1], merged)
            else:
                stretches = (*stretches, Stretch(phase=part, start_step=here, stop_step=here + part.num_steps))
            longer = longer._sharing_ids(Curriculum(start=self.start, stretches=stretches, curve=curve))
        return longer

    def _labelled(self, factors: Factors) -> Curriculum:
        """Return this curriculum with `factors` added to its last phase, or to its start if it has no phase."""
        if not factors:
            return self
        if not self.stretches:
            start = dataclasses.replace(self.start, factors=joined(self.start.factors, factors))
            return dataclasses.replace(self, start=start)
        last = self.stretches[-1]
        phase = dataclasses.replace(last.phase, factors=joined(last.phase.factors, factors))
        stretches = (*self.stretches[:-1], dataclasses.replace(last, phase=phase))
        return self._sharing_ids(dataclasses.replace(self, stretches=stretches))

    def until(self, step: int) -> Curriculum:
        """Return the first `step` steps; the learning-rate curve keeps its horizon.

        Raises:
            RecipeError: `step` is outside [0, number of steps].
        """
        step = plain(step)
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= self.num_steps:
            raise RecipeError("step", expected=f"a whole step in [0, {self.num_steps}]", got=step)
        if step == self.num_steps:
            return self
        kept = tuple(placed for placed in self.stretches if placed.start_step < step)
        if kept and kept[-1].stop_step > step:
            kept = (*kept[:-1], dataclasses.replace(kept[-1], stop_step=step))
        clipped = Curriculum(start=self.start, stretches=kept, curve=self.curve)
        clipped.__dict__["_ids"] = {known: state_id for known, state_id in self._ids.items() if known <= step}
        return clipped

    def branch(self, *, start_step: int, data: Mixture | MixtureRamp, name: str, factors: Factors = ()) -> Curriculum:
        """Return a midtraining branch: switch to a new mixture at `start_step` and train to the same end.

        The optimizer state, the learning-rate curve and the data positions continue. Batch, precision and seed are those
        of the trunk's phase at `start_step`. If that phase begins exactly at `start_step`, the branch takes over the same
        things as the trunk does there, so that a branch with the trunk's own data equals the trunk. `factors` are added to
        those of that phase.

        Raises:
            RecipeError: `start_step` is negative or not before the end, or the trunk is fine-tuned after it.
        """
        start_step = plain(start_step)
        if isinstance(start_step, bool) or not isinstance(start_step, int) or not 0 <= start_step < self.num_steps:
            raise RecipeError(
                "start_step",
                expected=f"a whole step in [0, {self.num_steps}), before the end of the trunk",
                got=start_step,
            )
        for placed in self.stretches:
            if placed.stop_step > start_step and isinstance(placed.phase.data, TaskData):
                raise RecipeError(
                    "start_step",
                    expected="a step after which the trunk is not fine-tuned, since the mixture would replace the task",
                    got=f"{start_step}, before the end of phase {placed.phase.name} on task {placed.phase.data.name}",
                    fix="Branch the trunk first, then add the fine-tuning with `then`.",
                )
        left = next(placed for placed in self.stretches if placed.start_step <= start_step < placed.stop_step)
        phase = dataclasses.replace(
            left.phase,
            name=name,
            data=data,
            num_steps=self.num_steps - start_step,
            schedule=None,
            factors=joined(left.phase.factors, factors),
        )
        if start_step > left.start_step:
            phase = dataclasses.replace(phase, optimizer_state="continue", data_positions="continue")
        head = self.until(start_step)
        if not head.stretches:  # a branch at step 0 has no curve to continue and uses the trunk's
            return head._followed_by(phase, self.curve)
        return head.then(phase)

    @property
    def num_steps(self) -> int:
        return self.stretches[-1].stop_step if self.stretches else 0

    @property
    def choices(self) -> tuple[Choice, ...]:
        """The choices that decide some of its learning rates, each once."""
        return self.curve.window(0, self.num_steps).choices

    @property
    def factors(self) -> Factors:
        """The factors of the start and of all phases; a later value replaces an earlier one."""
        return joined(self.start.factors, *(placed.phase.factors for placed in self.stretches))

    def state(self, step: int | None = None) -> State:
        """Return the state after `step` steps; by default the last state."""
        return State(curriculum=self.until(self.num_steps if step is None else step))

    def state_id(self, step: int) -> str:
        """Return the id of the state after `step` steps, without building the state."""
        if step not in self._ids:
            placed = next(placed for placed in self.stretches if placed.start_step < step <= placed.stop_step)
            self._ids[step] = identify(
                {
                    "is": "State",
                    "from": self.state_id(placed.start_step),
                    "phase": self.phase_id(placed),
                    "lr": self.curve.window(placed.start_step, step).segments,
                    "step": step,
                }
            )
        return self._ids[step]

    @cached_property
    def _ids(self) -> dict[int, str]:
        return {0: self.start.id}

    def _sharing_ids(self, longer: Curriculum) -> Curriculum:
        """Return `longer` with this curriculum's ids cached, since a grid branches thousands of arms from one trunk."""
        longer.__dict__["_ids"] = {**self._ids, self.num_steps: self.state_id(self.num_steps)}
        return longer

    def datasets_of(self, placed: Stretch) -> tuple[Dataset, ...]:
        """Return the data sets that the updates of a placed phase may read.

        These are its own data and the specialists of the phases whose data positions it continues: a specialist with a
        deficit from an earlier phase may receive draws in this one.
        """
        datasets = dict.fromkeys(placed.phase.datasets)
        following = placed
        for earlier in reversed([other for other in self.stretches if other.start_step < placed.start_step]):
            if following.phase.data_positions == "reset":
                break
            assert not isinstance(earlier.phase.data, TaskData)
            datasets |= dict.fromkeys(earlier.phase.data.specialist_corpora)
            following = earlier
        return tuple(datasets)

    def phase_id(self, placed: Stretch) -> str:
        """Return the digest of a placed phase as it enters the ids of its states: without its length and its schedule."""
        return _phase_digest(placed.phase, first=placed.start_step == 0)


@dataclass(frozen=True, kw_only=True)
class State:
    """The model and optimizer after all steps of a curriculum: the result of a training stage."""

    curriculum: Curriculum

    @property
    def step(self) -> int:
        return self.curriculum.num_steps

    @property
    def factors(self) -> Factors:
        return self.curriculum.factors

    @property
    def precision(self) -> str:
        """The precision the weights are stored in. Released weights are imported as fp32, which represents them exactly."""
        if self.curriculum.stretches:
            return self.curriculum.stretches[-1].phase.precision
        weights = self.curriculum.start.weights
        return weights.states[0].precision if isinstance(weights, Average) else "fp32"

    @cached_property
    def id(self) -> str:
        return self.curriculum.state_id(self.step)

    def recipe(self) -> State:
        """Return the state without anything that lies after it: what a job reads and a record stores."""
        whole = self.curriculum
        stretches = tuple(
            dataclasses.replace(
                placed,
                phase=dataclasses.replace(placed.phase, num_steps=placed.stop_step - placed.start_step, schedule=None),
            )
            for placed in whole.stretches
        )
        clipped = Curriculum(start=whole.start, stretches=stretches, curve=whole.curve.window(0, self.step))
        return State(curriculum=clipped)

    def text(self) -> str:
        """Return the canonical text of the clipped recipe; equal ids have equal text."""
        return canonical_text(self.recipe())

    def expanded(self) -> Any:
        """Return the clipped recipe as plain JSON, including labels."""
        return expanded(self.recipe())
