"""The runs of the bridging study: the paper's mixes, and the controls that separate what they claim.

The paper's own grid confounds three things: an earlier start gives more specialist tokens, at higher learning rates, and a
mix reads more text of the task's kind than its control does. So beside the paper's runs there are runs of equal dose, runs
of equal tokens, a placebo, a control that reads the same specialist text after pretraining, and fine-tuning to several
epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from midstudy.plan.dose import tokens_drawn
from midstudy.plan.matched import Branching, matched, matched_stop
from midstudy.recipe import Arm, Curriculum, Mixture, TokenCounts, factors
from midstudy.recipe.choice import Chosen
from midstudy.recipe.errors import inside
from midstudy.studies.bridging.scale import CONTROL, PAPER_STEPS, Scale
from midstudy.studies.bridging.text import PLACEBO, TASKS, Text

MATCHED = {"code": "pycode", "math": "word_problems"}
"""Matched task of each mix that has one: the authors' perfect matches, StarCoder → PyCode and Math → GSM8K."""

CUT = "cut"
"""The mix of a trunk that ends where a branch would start, and is fine-tuned from there."""
RAMP = "ramp"
"""The mix of a branch whose share of code rises in thirds: 10, 20, 30 %."""
RAMP_WEIGHTS = (0.1, 0.2, 0.3)
BLOCK = "block"
"""Ends the name of a mix whose specialist is read alone from the start step, and general text alone after that."""
BLOCK_SHARE = 0.2
"""The share at which the mix from the same start has the dose of a block."""
AFTER = "after"
"""Ends the name of a mix whose specialist is read after pretraining, in a phase trained like fine-tuning."""


@dataclass(frozen=True)
class Run:
    """A way to train a trunk to its end; the fields are factors of its arms."""

    mix: str = CONTROL
    weight: float = 0.0
    start_step: int = 0


@dataclass(frozen=True)
class PaperMix:
    """A mix with its weight and start step; in the paper the start step depends on the domain (Table 1)."""

    mix: str
    weight: float
    paper_start_step: int

    def run(self, total_steps: int) -> Run:
        """Return the run whose start is scaled to a training of `total_steps` steps."""
        return Run(self.mix, self.weight, round(self.paper_start_step * total_steps / PAPER_STEPS))


MIXES = (
    PaperMix("code", 0.20, 6_000),
    PaperMix("math", 0.12, 20_000),
    PaperMix("instruction", 0.05, 40_000),
    PaperMix("qa", 0.20, 40_000),
    PaperMix("hqweb", 0.20, 40_000),
)
ALONE = (PaperMix("code", 1.0, 40_000), PaperMix("math", 1.0, 56_000))
TIMING = tuple(PaperMix("code", 0.20, start) for start in (6_000, 20_000, 40_000, 50_000))
WEIGHTS = tuple(PaperMix("code", weight, 40_000) for weight in (0.10, 0.20, 0.50, 0.80, 1.0))
"""The ablation of weights; its last run, at weight 1, is continued pretraining."""
CROSSED = tuple(PaperMix("code", weight, start) for weight in (0.10, 0.20, 0.50) for start in (6_000, 20_000, 40_000))

Cell = tuple[Run, str, int]
"""A run, the task of its fine-tuning, and the steps of that."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """All arms of one model size; `labels` are further factors of the arms, the same for all."""

    scale: Scale
    text: Text
    labels: Mapping[str, str] = field(default_factory=dict)
    _trained: dict[tuple[Run, int], Curriculum] = field(default_factory=dict)
    _chosen: dict[Cell, Chosen] = field(default_factory=dict)

    def counts(self, tasks: Iterable[str] = tuple(TASKS)) -> list[TokenCounts]:
        """Return the token counts behind the similarities of all corpora, the placebo and some tasks."""
        corpora, chosen = [*self.text.corpora, self.text.placebo], [self.text.tasks[task] for task in tasks]
        return self.scale.counts([*corpora, *chosen], self.scale.tokenizer(self.text.corpora))

    def main(self) -> list[Cell]:
        """Return the cells on which conclusions rest: control, placebo and matched mixes on the matched tasks, and the
        code mix from a later start at equal dose."""
        runs = [Run(), self.placebo, *(self.paper(mix) for mix in MATCHED)]
        cells = [self._cell(run, task) for task in MATCHED.values() for run in runs]
        return [*cells, self._cell(self.code_later, MATCHED["code"])]

    def every_mix(self) -> list[Cell]:
        """Return the control and every mix of the paper on every task."""
        runs = [Run(), *(mix.run(self.scale.total_steps) for mix in MIXES)]
        return [self._cell(run, task) for task in TASKS for run in runs]

    def ablations(self) -> list[Cell]:
        """Return the paper's ablations and continued pretraining, their runs of equal dose or tokens, and the ramp."""
        runs = [mix.run(self.scale.total_steps) for mix in (*ALONE, *TIMING, *WEIGHTS, *CROSSED)]
        runs += [*self.code_like_alone, self.code_tokens, self.math_alone, self.ramp]
        return [self._cell(run, MATCHED["math" if run.mix == "math" else "code"]) for run in runs]

    def further(self) -> list[Cell]:
        """Return the controls that are fine-tuned from the start step, and that read the specialist after pretraining."""
        runs = [(mix, run) for mix in MATCHED for run in (self.cut(mix), self.after(mix))]
        return [self._cell(run, MATCHED[mix]) for mix, run in runs]

    def lengths(self, steps: Iterable[int]) -> list[Cell]:
        """Return the control and each matched mix with other lengths of fine-tuning."""
        runs = [(mix, run) for mix in MATCHED for run in (Run(), self.paper(mix))]
        return [(run, MATCHED[mix], length) for length in steps for mix, run in runs]

    def arms(self, cells: Iterable[Cell], *, seed: int, sft_peak_lrs: Sequence[float] = ()) -> list[Arm]:
        """Return the arms of some cells on one trunk; each trunk seed has an SFT seed of its own.

        Args:
            sft_peak_lrs: peak learning rates of fine-tuning, of which each cell takes the best on dev of the first trunk for
                which it is built; without them every cell has the rate of the scale.
        """
        arms = []
        for run, task, steps in dict.fromkeys(cells):
            labels = factors(mix=run.mix, weight=run.weight, start_step=run.start_step)
            num_points = 0 if steps == self.scale.sft_steps else SFT_POINTS
            curriculum, target = self.train(run, seed), self.text.tasks[task]
            if sft_peak_lrs and (run, task, steps) not in self._chosen:
                self._chosen[run, task, steps] = self.scale.choose_sft_peak_lr(
                    curriculum, target, seed=sft_seed(seed), among=sft_peak_lrs, steps=steps, labels=labels
                )
            arms.append(
                self.scale.finetune(
                    curriculum,
                    target,
                    seed=sft_seed(seed),
                    steps=steps,
                    labels=labels,
                    sft_peak_lr=self._chosen.get((run, task, steps)),
                    num_points=num_points,
                )
            )
        return arms

    def train(self, run: Run, seed: int) -> Curriculum:
        """Return the curriculum of a run on a trunk; arms share it, and with it its stage ids."""
        if (run, seed) not in self._trained:
            self._trained[run, seed] = self._train(run, seed)
        return self._trained[run, seed]

    def paper(self, mix: str) -> Run:
        """Return the paper's run of a mix."""
        return next(one for one in MIXES if one.mix == mix).run(self.scale.total_steps)

    @property
    def placebo(self) -> Run:
        """The placebo, mixed in like code: the mix with the largest dose."""
        code = self.paper("code")
        return Run(PLACEBO, code.weight, code.start_step)

    @cached_property
    def code_later(self) -> Run:
        """The code mix from the start of the math mix, at the dose of the paper's code mix."""
        with inside("mixes.math"):
            return self._twin(self.paper("code"), on="lr_dose", start_step=self.paper("math").start_step)

    @cached_property
    def code_alone(self) -> Run:
        """Code alone from the paper's start."""
        return ALONE[0].run(self.scale.total_steps)

    @cached_property
    def code_like_alone(self) -> tuple[Run, Run]:
        """The code mix from two earlier starts, at the dose of code alone."""
        starts = (self.paper("code").start_step, self.paper("math").start_step)
        first, second = (self._twin(self.code_alone, on="lr_dose", start_step=start) for start in starts)
        return first, second

    @cached_property
    def code_tokens(self) -> Run:
        """The code mix from a later start with the specialist tokens of the paper's code mix."""
        return self._twin(self.paper("code"), on="tokens", start_step=self.code_alone.start_step)

    @cached_property
    def math_alone(self) -> Run:
        """Math alone from the start at which it has the dose of the paper's math mix."""
        like = self.paper("math")
        found = matched(self._trunk(0), Branching(start_step=like.start_step, share=like.weight), on="lr_dose", share=1.0)
        return Run("math", 1.0, found.start_step)

    def block(self, mix: str, start_step: int) -> Run:
        """Return the run that reads a specialist alone from a step until it has the dose of `BLOCK_SHARE` from there."""
        return Run(f"{mix} {BLOCK}", 1.0, start_step)

    def from_step(self, like: Run, start_step: int) -> Run:
        """Return the run of a mix from another step at equal dose."""
        return self._twin(like, on="lr_dose", start_step=start_step)

    @property
    def ramp(self) -> Run:
        """Code at 10, 20, 30 %, from the start of the math mix."""
        return Run(f"code {RAMP}", sum(RAMP_WEIGHTS) / len(RAMP_WEIGHTS), self.paper("math").start_step)

    def cut(self, mix: str) -> Run:
        """Return the trunk that ends where the mix starts."""
        return Run(CUT, 0.0, self.paper(mix).start_step)

    def after(self, mix: str) -> Run:
        """Return the control that reads the specialist tokens of the mix after pretraining."""
        return Run(f"{mix} {AFTER}", 1.0, self.scale.total_steps)

    def _train(self, run: Run, seed: int) -> Curriculum:
        if run.mix == CONTROL:
            return self._trunk(seed)
        trunk = self.train(Run(), seed)
        if run.mix == CUT:
            return trunk.until(run.start_step)
        mix, _, kind = run.mix.partition(" ")
        corpus = self.text.mixed_in(mix)
        if kind == AFTER:
            num_tokens = tokens_drawn(self.train(self.paper(mix), seed))[mix]
            return self.scale.read_after(trunk, corpus, num_tokens=num_tokens)
        if kind == RAMP:
            third = (self.scale.total_steps - run.start_step) // len(RAMP_WEIGHTS)
            ramp = trunk
            for index, weight in enumerate(RAMP_WEIGHTS):
                start_step = run.start_step + index * third
                ramp = self.scale.midtrain(ramp, {corpus: weight}, start_step=start_step, mix=run.mix)
            return ramp
        branch = self.scale.midtrain(trunk, {corpus: run.weight}, start_step=run.start_step, mix=run.mix)
        if kind == BLOCK:
            stop_step = matched_stop(trunk, Branching(start_step=run.start_step, share=BLOCK_SHARE))
            data, name = Mixture.only(self.text.general), f"general after {run.mix} {self.scale.size} seed {seed}"
            return branch.branch(start_step=stop_step, data=data, name=name)
        return branch

    def _trunk(self, seed: int) -> Curriculum:
        tokenizer = self.scale.tokenizer(self.text.corpora)
        return self.scale.pretrain(self.text.general, tokenizer=tokenizer, seed=seed, **self.labels)

    def _twin(self, like: Run, *, on: str, start_step: int) -> Run:
        branching = Branching(start_step=like.start_step, share=like.weight)
        found = matched(self._trunk(0), branching, on=on, start_step=start_step)
        return Run(like.mix, found.share, found.start_step)

    def _cell(self, run: Run, task: str) -> Cell:
        return run, task, self.scale.sft_steps


SFT_POINTS = 8
"""Points of the loss curves along a longer fine-tuning."""


def sft_seed(trunk_seed: int) -> int:
    """Return the SFT seed of a trunk: one of its own, so that intervals over trunks hold the variance of fine-tuning."""
    return 1_337 + trunk_seed
