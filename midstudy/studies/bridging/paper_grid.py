"""The grid that the paper published, and the nested grids to which a budget cuts it.

Sizes × mixes × tasks × seeds of fine-tuning; the ablations of timing and weight and continued pretraining at two sizes;
fine-tuning of intermediate checkpoints (arXiv 2510.14865 v1, sections 3 to 5, and nightingal3/midtraining). The paper
trains each size once and repeats fine-tuning: its five seeds vary the order of the items.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from midstudy.recipe import Arm, Comparison, Curriculum, factors, where
from midstudy.recipe.data import ReleasedTokenizer
from midstudy.recipe.errors import RecipeError
from midstudy.studies.bridging.comparisons import MATCH, comparison_of, complete, earliest_latest
from midstudy.studies.bridging.grid import ALONE, MATCHED, MIXES, PaperMix, Run
from midstudy.studies.bridging.paper_text import PaperText
from midstudy.studies.bridging.scale import PAPER_STEPS, Scale
from midstudy.studies.bridging.text import TASKS

TRUNK_SEED = 42
SFT_SEEDS = (1_337, 895, 3_641, 3_181, 9_762)
FEWEST_SEEDS = 3
SFT_EPOCHS = 4
CHECKPOINT_EVERY = 10_000
"""Steps between the intermediate checkpoints that are fine-tuned."""

ABLATION_SIZES = ("70m", "160m")
STARTS = tuple(PaperMix("code", 0.20, start) for start in (6_000, 20_000, 30_000, 40_000, 50_000))
SHARES = tuple(PaperMix("code", weight, 40_000) for weight in (0.10, 0.20, 0.30, 0.50, 0.80))

PARTS = {
    "checkpoints": "fine-tuning of intermediate checkpoints",
    "weight": "the ablation of weights",
    "timing": "the ablation of start steps",
    "continued": "continued pretraining",
}
"""What the grid has beside its mixes at the end of training, in the order in which a budget cuts it."""


def paper_scale(size: str, *, tokens: float = 1.0, precision: str = "bf16_true", vocab_size: int = 50_304) -> Scale:
    """Return the paper's training of a size: 61,035 steps of 1,024 sequences of 2,048 tokens, in pure bfloat16.

    Args:
        tokens: share of the paper's tokens, of which steps, sequences and their length take the cube root each.
    """
    root = tokens ** (1 / 3)
    return Scale(
        size=size,
        total_steps=round(PAPER_STEPS * root),
        num_sequences=max(1, round(1_024 * root)),
        seq_len=round(2_048 * root),
        peak_lr=3e-4,
        sft_num_sequences=max(1, round(64 * root)),
        sft_peak_lr=1e-3,
        precision=precision,
        vocab_size=vocab_size,
        test_items=max(8, round(2_000 * tokens**0.5)),
    )


@dataclass(frozen=True, kw_only=True)
class PaperGrid:
    """Which part of the published grid is trained; by default all of it."""

    sizes: tuple[str, ...] = ("70m", "160m", "410m", "1b")
    mixes: tuple[str, ...] = ("control", *(one.mix for one in MIXES))
    tasks: tuple[str, ...] = tuple(TASKS)
    sft_seeds: tuple[int, ...] = SFT_SEEDS
    parts: tuple[str, ...] = tuple(PARTS)

    def __post_init__(self) -> None:
        known = {"mixes": ("control", *(one.mix for one in MIXES)), "tasks": tuple(TASKS), "parts": tuple(PARTS)}
        for name, values in known.items():
            if not set(getattr(self, name)) <= set(values):
                raise RecipeError(name, expected=f"some of {', '.join(values)}", got=getattr(self, name))
        for name in ("sizes", "mixes", "tasks", "sft_seeds"):
            held = getattr(self, name)
            if not held or len(set(held)) < len(held):
                raise RecipeError(name, expected="at least one, each once", got=held)

    def nested(self) -> Iterator[tuple[str, PaperGrid]]:
        """Yield the grids that a budget chooses from, each with what was cut last: first this one, with an empty text.

        Sizes go first, from the last one down; then the ablations; then tasks and mixes without a match; seeds of
        fine-tuning go last, and never below three: fewer arms before fewer seeds.
        """
        grid, what = self, ""
        yield what, grid
        steps: list[tuple[str, dict[str, tuple[object, ...]]]] = [
            (f"size {size}", {"sizes": self.sizes[: self.sizes.index(size)]}) for size in reversed(self.sizes[1:])
        ]
        steps += [(PARTS[name], {"parts": self.parts[number:]}) for number, name in enumerate(self.parts, start=1)]
        for name, kept in (("tasks", tuple(MATCHED.values())), ("mixes", ("control", *MATCHED))):
            held, left = getattr(self, name), tuple(one for one in getattr(self, name) if one in kept)
            if left and left != held:
                steps.append((f"{name} {', '.join(one for one in held if one not in left)}", {name: left}))
        for number in range(len(self.sft_seeds) - 1, FEWEST_SEEDS - 1, -1):
            steps.append((f"SFT seed {self.sft_seeds[number]}", {"sft_seeds": self.sft_seeds[:number]}))
        for what, changes in steps:
            grid = replace(grid, **changes)  # type: ignore[arg-type]
            yield what, grid

    def cut(self, cuts: int) -> tuple[PaperGrid, list[str]]:
        """Return the grid after so many cuts, and what they were.

        Raises:
            RecipeError: there are not so many.
        """
        grids = list(self.nested())
        if not (isinstance(cuts, int) and 0 <= cuts < len(grids)):
            raise RecipeError("cuts", expected=f"a whole number from 0 to {len(grids) - 1}", got=cuts)
        return grids[cuts][1], [what for what, _ in grids[1 : cuts + 1]]

    def arms(self, *, text: PaperText, tokenizer: ReleasedTokenizer, tokens: float, precision: str) -> list[Arm]:
        """Return all arms of the grid.

        Args:
            tokens: share of the paper's tokens.
        """
        vocab_size = -(-tokenizer.vocab_size // 128) * 128
        arms = []
        for size in self.sizes:
            scale = paper_scale(size, tokens=tokens, precision=precision, vocab_size=vocab_size)
            trunk = scale.pretrain(text.general, tokenizer=tokenizer, seed=TRUNK_SEED)
            runs: dict[Run, Curriculum] = {}
            for run, at_step, task in self._cells(scale, size):
                if run not in runs:
                    specialist = text.specialists.get(run.mix)
                    runs[run] = (
                        scale.midtrain(trunk, {specialist: run.weight}, start_step=run.start_step) if specialist else trunk
                    )
                kept = runs[run] if at_step == scale.total_steps else runs[run].until(at_step)
                labels = factors(mix=run.mix, weight=run.weight, start_step=run.start_step, at_step=at_step)
                steps = -(-SFT_EPOCHS * text.num_items[task] // scale.sft_num_sequences)
                arms += [
                    scale.finetune(kept, text.tasks[task], seed=seed, steps=steps, labels=labels) for seed in self.sft_seeds
                ]
        return arms

    def _cells(self, scale: Scale, size: str) -> Iterator[tuple[Run, int, str]]:
        """Yield each run with the step at which it is fine-tuned and the task."""
        end = scale.total_steps
        main = [Run()] if "control" in self.mixes else []
        main += [one.run(end) for one in MIXES if one.mix in self.mixes]
        every = range(CHECKPOINT_EVERY, PAPER_STEPS, CHECKPOINT_EVERY) if "checkpoints" in self.parts else ()
        cells = [(run, end, task) for run in main for task in self.tasks]
        for run in main:
            at_steps = [step for step in (round(one * end / PAPER_STEPS) for one in every) if step > run.start_step]
            cells += [(run, step, task) for step in at_steps for task in self.tasks]
        ablations = {"weight": SHARES, "timing": STARTS, "continued": ALONE}
        for name in self.parts:
            if name in ablations and size in ABLATION_SIZES:
                cells += [(one.run(end), end, MATCHED[one.mix]) for one in ablations[name]]
        wanted = (cell for cell in cells if cell[0].mix in self.mixes and cell[2] in self.tasks)
        yield from dict.fromkeys(wanted)

    def comparisons(self, arms: Sequence[Arm], *, total_steps: int) -> list[Comparison]:
        """Return the paper's comparisons of these arms; those without arms are omitted."""

        def of(*runs: PaperMix, from_arms: Sequence[Arm]) -> list[Arm]:
            scaled = dict.fromkeys(one.run(total_steps) for one in runs)
            found = [where(from_arms, mix=one.mix, weight=one.weight, start_step=one.start_step) for one in scaled]
            return [arm for group in found for arm in group]

        final, controls = where(arms, at_step=total_steps), where(arms, mix="control")
        own = [arm for arm in arms if arm.factors["task"] == MATCHED.get(str(arm.factors["mix"]))]
        own_final = where(own, at_step=total_steps)
        control, mixes = where(final, mix="control"), of(*MIXES, from_arms=final)
        matched = [one for one in MIXES if one.mix in MATCHED]
        timing = complete(of(*STARTS, from_arms=own_final), "start_step") if "timing" in self.parts else []
        weights = complete(of(*SHARES, from_arms=own_final), "weight") if "weight" in self.parts else []
        on_way = of(*matched, from_arms=own) if "checkpoints" in self.parts else []
        alone, by_mix, along = of(*ALONE, from_arms=final), ("size", "mix", "task", "sft_steps"), (*MATCH, "at_step")
        found = [
            comparison_of("main", "Which mix helps which task", mixes, control, MATCH, None),
            comparison_of("continued", "Mixed in, or alone", of(*matched, from_arms=own_final), alone, by_mix, None),
            comparison_of("timing", "When to start", timing, control, MATCH, "start_step"),
            comparison_of("weight", "Which share", weights, control, MATCH, "weight"),
            comparison_of("checkpoints", "Fine-tuned on the way", on_way, controls, along, "at_step"),
            earliest_latest(timing),
        ]
        return [one for one in found if one is not None]
