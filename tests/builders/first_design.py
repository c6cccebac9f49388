"""The design of commit bce8467 in today's types: one tokenizer corpus, crossed SFT seeds, losses alone. For its ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from midstudy.recipe import Arm, Comparison, Corpus, Curriculum, Measure, Task, Tokenizer, where
from midstudy.studies.bridging.comparisons import comparison_of, earliest_latest
from midstudy.studies.bridging.scale import COLUMNS, CONTROL, PAPER_STEPS, Scale, general_of


@dataclass(frozen=True, kw_only=True)
class FirstScale(Scale):
    """The training setup of then: a tokenizer of the general corpus, and losses of the test split alone."""

    def first_tokenizer(self, general: Corpus) -> Tokenizer:
        return Tokenizer(corpus=general, vocab_size=self.vocab_size, max_bytes=self.tokenizer_bytes)

    def trunk(self, general: Corpus, *, seed: int) -> Curriculum:
        return self.pretrain(general, tokenizer=self.first_tokenizer(general), seed=seed)

    def tuned(self, run: Curriculum, task: Task, *, seed: int) -> Arm:
        """Return the arm of `finetune` with the measures of then."""
        tuned = self.finetune(run, task, seed=seed).curriculum
        evaluations = [replace(self.evaluation(data), metrics=(), items=False) for data in (task, general_of(run))]
        measures = {
            column + when: Measure(state=state, evaluation=evaluation)
            for when, state in (("", tuned.state()), ("_before", run.state()))
            for column, evaluation in zip(COLUMNS, evaluations, strict=True)
        }
        return Arm(curriculum=tuned, measures=measures)


@dataclass(frozen=True)
class Midtraining:
    """A mix with its weight and start step; in the paper the start step depends on the domain (Table 1)."""

    mix: str
    weight: float
    paper_start_step: int

    def start_step(self, total_steps: int) -> int:
        """Return the start step scaled to a training of `total_steps` steps."""
        return round(self.paper_start_step * total_steps / PAPER_STEPS)


MIXES = (
    Midtraining("code", 0.20, 6_000),
    Midtraining("math", 0.12, 20_000),
    Midtraining("instruction", 0.05, 40_000),
    Midtraining("qa", 0.20, 40_000),
    Midtraining("hqweb", 0.20, 40_000),
)
CONTINUED = (Midtraining("code", 1.0, 40_000), Midtraining("math", 1.0, 56_000))
TIMING = tuple(Midtraining("code", MIXES[0].weight, start) for start in (6_000, 20_000, 40_000, 50_000))
WEIGHTS = tuple(Midtraining("code", weight, 40_000) for weight in (0.10, 0.20, 0.50, 0.80, 1.0))
"""The ablation of weights; its last arm, at weight 1, is continued pretraining."""

TASKS = {  # name: folder of a directory source
    "pycode": "sft/pycode",
    "word_problems": "sft/gsm8k",
    "science_qa": "sft/sciqa",
    "long_form": "sft/dialogue",
}
MATCHED = {"code": "pycode", "math": "word_problems"}
"""Matched task of each mix that has one: the authors' perfect matches, StarCoder → PyCode and Math → GSM8K."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """All arms of one model size."""

    scale: FirstScale
    corpora: Mapping[str, Corpus]
    tasks: Mapping[str, Task]
    _runs: dict[tuple[Midtraining | None, int], Curriculum] = field(default_factory=dict)

    def everything(self, *, trunk_seed: int, sft_seed: int) -> list[Arm]:
        """Return every mix on every task, continued pretraining, and the ablations of start step and weight."""
        cells: list[tuple[Midtraining | None, str]] = [(mix, task) for task in TASKS for mix in (None, *MIXES)]
        cells += [(mix, MATCHED[mix.mix]) for mix in CONTINUED]
        cells += [(mix, MATCHED[mix.mix]) for mix in (*TIMING, *WEIGHTS)]
        return self._arms(cells, trunk_seed, sft_seed)

    def matched_tasks(self, *, trunk_seed: int, sft_seed: int) -> list[Arm]:
        """Return every mix on the two matched tasks, so that claims on the best mix have an interval over trunks."""
        return self._arms([(mix, task) for task in MATCHED.values() for mix in (None, *MIXES)], trunk_seed, sft_seed)

    def main_contrasts(self, *, trunk_seed: int, sft_seed: int) -> list[Arm]:
        """Return the two matched mixes and their controls."""
        cells = [(mix, MATCHED[matched.mix]) for matched in MIXES if matched.mix in MATCHED for mix in (None, matched)]
        return self._arms(cells, trunk_seed, sft_seed)

    def _arms(self, cells: Sequence[tuple[Midtraining | None, str]], trunk_seed: int, sft_seed: int) -> list[Arm]:
        return [self._arm(mix, task, trunk_seed, sft_seed) for mix, task in dict.fromkeys(cells)]

    def _arm(self, mix: Midtraining | None, task: str, trunk_seed: int, sft_seed: int) -> Arm:
        return self.scale.tuned(self._run(mix, trunk_seed), self.tasks[task], seed=sft_seed)

    def _run(self, mix: Midtraining | None, trunk_seed: int) -> Curriculum:
        """Return the run of a mix on a trunk (None for the control); arms share it, and with it its stage ids."""
        if (mix, trunk_seed) not in self._runs:
            if mix is None:
                run = self.scale.trunk(self.corpora["general"], seed=trunk_seed)
            else:
                specialists = {self.corpora[mix.mix]: mix.weight}
                start_step = mix.start_step(self.scale.total_steps)
                run = self.scale.midtrain(self._run(None, trunk_seed), specialists, start_step=start_step)
            self._runs[mix, trunk_seed] = run
        return self._runs[mix, trunk_seed]


def first_comparisons(arms: Sequence[Arm], *, total_steps: int) -> list[Comparison]:
    """Return the comparisons of then that claims rest on; an arm without its reference is left out."""

    def of(*cells: Midtraining) -> list[Arm]:
        return [
            arm
            for cell in cells
            for arm in where(arms, mix=cell.mix, weight=cell.weight, start_step=cell.start_step(total_steps))
        ]

    match = ("size", "task")
    main = comparison_of("main", "Which mix helps which task", of(*MIXES), where(arms, mix=CONTROL), match, None)
    continued = comparison_of("continued", "Mixed or alone", of(*MIXES), of(*CONTINUED), ("size", "mix", "task"), None)
    timing = [arm for arm in of(*TIMING) if arm.factors["task"] == MATCHED["code"]]
    once = [arm for arm in timing if (arm.factors["trunk_seed"], arm.factors["sft_seed"]) == (0, 1337)]
    found = [main, continued, earliest_latest(once)]
    return [comparison for comparison in found if comparison is not None]
