"""Curricula and their states: the paper's training sequence, and an identity that only the past can change.

A curriculum is kept in normal form: phases of no steps are gone, equal neighbours are one stretch, a mixture that has come
to the end of its ramp is constant from there, and the learning rate is one curve over the curriculum's steps. The id of
the state after s steps is

    id(s) = H(id at the start of its stretch; the stretch's phase without its end; the LR curve over the stretch, < s; s)

so nothing that happens at or after step s, no milestone, no evaluation and no length of the run can change it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from midstudy.recipe.canonical import added_field, canonical, canonical_text, expanded, identify, label_field
from midstudy.recipe.curve import Curve
from midstudy.recipe.data import Dataset, ReleasedTokenizer, Task, Tokenizer
from midstudy.recipe.errors import RecipeError, inside, require_whole
from midstudy.recipe.factors import Factors, joined, require_factors
from midstudy.recipe.mixture import Mixture, MixtureRamp
from midstudy.recipe.model import ModelShape
from midstudy.recipe.phase import Phase
from midstudy.recipe.plain import hold_plain_numbers, plain
from midstudy.recipe.start_weights import Average, Release


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a curriculum begins: a model, its first weights, and the tokenizer that it reads text through.

    The weights are drawn from `seed`, or they are `weights`: a release or an average, and then nothing is drawn and `seed`
    is none. `midstudy.data.release.released_pythia` builds the start of a release, `Start.averaged` that of an average.
    """

    model: ModelShape
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
                expected="a seed where the weights are drawn; none where they come from a release or an average",
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
                        expected="theirs",
                        got="another than that of the averaged states",
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
        """The start whose weights are an average, with the model and the tokenizer of its states, and with the factors on
        which they all agree before `factors`."""
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
    """A phase at its place: the updates from state `start_step` to state `stop_step`."""

    phase: Phase
    start_step: int
    stop_step: int


# What a phase's identity leaves out: its end, and its schedule, which the curve already holds in absolute steps.
_NOT_OF_THE_PAST = ("num_steps", "schedule")
_TAKE_OVERS = ("optimizer_state", "data_positions")


def _phase_form(phase: Phase, *, first: bool) -> Any:
    form = canonical(phase)
    for name in _NOT_OF_THE_PAST + (_TAKE_OVERS if first else ()):  # the first phase has nothing to take over
        form.pop(name, None)
    return form


_digests: dict[tuple[int, bool], tuple[Phase, str]] = {}


def _phase_digest(phase: Phase, *, first: bool) -> str:
    """Digest of a phase's identity, remembered by object: a grid shares its phases between thousands of arms."""
    key = (id(phase), first)
    known = _digests.get(key)
    if known is None or known[0] is not phase:
        known = (phase, identify(_phase_form(phase, first=first)))
        _digests[key] = known
    return known[1]


def _same_but_length(before: Phase, after: Phase, *, first: bool) -> bool:
    if after.optimizer_state != "continue" or after.data_positions != "continue":
        return False
    if isinstance(after.data, MixtureRamp):  # it begins anew
        return False
    if first:
        return _phase_digest(before, first=True) == _phase_digest(after, first=True)
    taken_over = dataclasses.replace(before, optimizer_state="continue", data_positions="continue")
    return identify(_phase_form(taken_over, first=False)) == _phase_digest(after, first=False)


def _check_takes_over(before: Stretch, after: Phase, stretches: tuple[Stretch, ...]) -> None:
    path = f"phases.{after.name}"
    if after.data_positions == "reset":
        return
    old = before.phase
    if isinstance(old.data, Task) or isinstance(after.data, Task):
        raise RecipeError(f"{path}.data_positions", expected="reset after a task", got="continue")
    for field in ("seq_len", "seed"):
        if getattr(old, field) != getattr(after, field):
            raise RecipeError(
                f"{path}.{field}",
                expected=f"{getattr(old, field)}, that of the phase before, while data positions continue",
                got=getattr(after, field),
                fix='Set data_positions="reset" to begin a new order.',
            )
    bases, specialists = {after.data.base_corpus}, {*after.data.specialist_corpora}
    for stretch in reversed(stretches):
        assert not isinstance(stretch.phase.data, Task)
        bases.add(stretch.phase.data.base_corpus)
        specialists |= {*stretch.phase.data.specialist_corpora}
        if stretch.phase.data_positions == "reset":
            break
    if both := bases & specialists:
        name = sorted(corpus.name for corpus in both if corpus)[0]
        raise RecipeError(
            f"{path}.data",
            expected="one role a corpus while data positions continue",
            got=f"corpus {name} as the base in one phase and as a specialist in another",
            fix='Set data_positions="reset", or keep the role.',
        )


def _in_normal_form(phase: Phase) -> tuple[Phase, ...]:
    """The phase, cut where its mixture's ramp is over; a ramp that goes nowhere is its mixture."""
    ramp = phase.data
    if not isinstance(ramp, MixtureRamp):
        return (phase,)
    if ramp.goes_nowhere:
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
        """The curriculum of these phases, one after the other.

        Raises:
            RecipeError: the first phase has no schedule, or a phase cannot take over what it says it does.
        """
        curriculum = cls(start=start, stretches=(), curve=Curve(()))
        for phase in phases:
            curriculum = curriculum.then(phase)
        return curriculum

    def then(self, phase: Phase) -> Curriculum:
        """This curriculum followed by `phase`; of a phase without steps the factors alone count."""
        if phase.num_steps == 0:
            return self._labelled(phase.factors)
        if phase.seq_len > self.start.model.max_seq_len:
            raise RecipeError(
                f"phases.{phase.name}.seq_len",
                expected=f"at most the model's {self.start.model.max_seq_len} tokens",
                got=phase.seq_len,
            )
        curve = self.curve
        if phase.schedule is not None:
            with inside(f"phases.{phase.name}"):
                curve = phase.schedule.after(self.curve, step=self.num_steps)
        elif not self.stretches:
            raise RecipeError(
                f"phases.{phase.name}.schedule", expected="a schedule: the first phase has none to continue", got=None
            )
        return self._followed_by(phase, curve)

    def _followed_by(self, phase: Phase, curve: Curve) -> Curriculum:
        """This curriculum and `phase` in normal form, under `curve`."""
        longer = self
        for part in _in_normal_form(phase):
            here, stretches = longer.num_steps, longer.stretches
            if not stretches:  # nothing to take over: one way to say so, hence one recipe for one id
                part = dataclasses.replace(part, optimizer_state="reset", data_positions="reset")
            else:
                _check_takes_over(stretches[-1], part, stretches)
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
        """This curriculum with more factors on its last phase, or on its start."""
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
        """The first `step` steps; the learning-rate curve keeps its horizon.

        Raises:
            RecipeError: `step` is outside [0, number of steps].
        """
        step = plain(step)
        if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step <= self.num_steps:
            raise RecipeError("step", expected=f"a whole step in [0, {self.num_steps}]", got=step)
        if step == self.num_steps:
            return self
        kept = tuple(s for s in self.stretches if s.start_step < step)
        if kept and kept[-1].stop_step > step:
            kept = (*kept[:-1], dataclasses.replace(kept[-1], stop_step=step))
        clipped = Curriculum(start=self.start, stretches=kept, curve=self.curve)
        clipped.__dict__["_ids"] = {known: identity for known, identity in self._ids.items() if known <= step}
        return clipped

    def branch(self, *, start_step: int, data: Mixture | MixtureRamp, name: str, factors: Factors = ()) -> Curriculum:
        """Leave at `start_step` with a new mixture and go on to the same end: midtraining.

        The optimizer's state, the learning-rate curve and the data positions continue; batch, precision and seed are those
        of the stretch that is left. Where that stretch itself begins at `start_step`, the branch takes over from the stretch
        before what the trunk does there: a branch with the trunk's own data is the trunk. `factors` are added to those of
        the stretch that is left.

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
        for stretch in self.stretches:
            if stretch.stop_step > start_step and isinstance(stretch.phase.data, Task):
                raise RecipeError(
                    "start_step",
                    expected="a trunk that is not fine-tuned after it: the mixture would take the task's place",
                    got=f"{start_step}, before the end of phase {stretch.phase.name} on task {stretch.phase.data.name}",
                    fix="Branch the trunk first, then add the fine-tuning with `then`.",
                )
        left = next(s for s in self.stretches if s.start_step <= start_step < s.stop_step)
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
        if not head.stretches:  # from the very start: the trunk's schedule is this phase's own
            return head._followed_by(phase, self.curve)
        return head.then(phase)

    @property
    def num_steps(self) -> int:
        return self.stretches[-1].stop_step if self.stretches else 0

    @property
    def factors(self) -> Factors:
        """What the start and the phases fix, the last word counting."""
        return joined(self.start.factors, *(stretch.phase.factors for stretch in self.stretches))

    def state(self, step: int | None = None) -> State:
        """The state after `step` steps; by default the last."""
        return State(curriculum=self.until(self.num_steps if step is None else step))

    def state_id(self, step: int) -> str:
        """The id of the state after `step` steps, without building the state."""
        if step not in self._ids:
            stretch = next(s for s in self.stretches if s.start_step < step <= s.stop_step)
            self._ids[step] = identify(
                {
                    "is": "State",
                    "from": self.state_id(stretch.start_step),
                    "phase": self.phase_id(stretch),
                    "lr": self.curve.window(stretch.start_step, step).segments,
                    "step": step,
                }
            )
        return self._ids[step]

    @cached_property
    def _ids(self) -> dict[int, str]:
        return {0: self.start.id}

    def _sharing_ids(self, longer: Curriculum) -> Curriculum:
        """`longer`, knowing the ids of its past: a grid grows thousands of arms from one trunk."""
        longer.__dict__["_ids"] = {**self._ids, self.num_steps: self.state_id(self.num_steps)}
        return longer

    def datasets_of(self, stretch: Stretch) -> tuple[Dataset, ...]:
        """What the updates of a stretch may read: its own data, and specialists of the phases whose data positions it
        continues, since its first draws may still be owed to them."""
        found = dict.fromkeys(stretch.phase.datasets)
        following = stretch
        for earlier in reversed([one for one in self.stretches if one.start_step < stretch.start_step]):
            if following.phase.data_positions == "reset":
                break
            assert not isinstance(earlier.phase.data, Task)
            found |= dict.fromkeys(earlier.phase.data.specialist_corpora)
            following = earlier
        return tuple(found)

    def phase_id(self, stretch: Stretch) -> str:
        """Digest of a stretch's phase as the states in it see it: without its end and its schedule."""
        return _phase_digest(stretch.phase, first=stretch.start_step == 0)


@dataclass(frozen=True, kw_only=True)
class State:
    """The model and optimizer after all steps of a curriculum: what a training stage makes."""

    curriculum: Curriculum

    @property
    def step(self) -> int:
        return self.curriculum.num_steps

    @property
    def factors(self) -> Factors:
        return self.curriculum.factors

    @property
    def precision(self) -> str:
        """The precision that the weights are kept in; a release's are imported as fp32, which holds any of them exactly."""
        if self.curriculum.stretches:
            return self.curriculum.stretches[-1].phase.precision
        weights = self.curriculum.start.weights
        return weights.states[0].precision if isinstance(weights, Average) else "fp32"

    @cached_property
    def id(self) -> str:
        return self.curriculum.state_id(self.step)

    def recipe(self) -> State:
        """The state with everything gone that is not of its past: what a job reads and a record stores."""
        whole = self.curriculum
        stretches = tuple(
            dataclasses.replace(s, phase=dataclasses.replace(s.phase, num_steps=s.stop_step - s.start_step, schedule=None))
            for s in whole.stretches
        )
        clipped = Curriculum(start=whole.start, stretches=stretches, curve=whole.curve.window(0, self.step))
        return State(curriculum=clipped)

    def text(self) -> str:
        """Canonical text of the clipped recipe; equal for equal ids."""
        return canonical_text(self.recipe())

    def expanded(self) -> Any:
        """The clipped recipe as plain JSON, labels included."""
        return expanded(self.recipe())
