"""Does midtraining bridge pretraining and fine-tuning? The whole study, at micro scale, in minutes on two CPU cores.

Hypothesis. A specialist mix in the middle of training helps fine-tuning on the task that lies close to it in token
distribution, more than it helps any other task, and costs less general ability than training on the specialist alone
("Midtraining Bridges Pretraining and Posttraining Distributions", arXiv 2510.14865). Proximity advantage, that is how much
closer than general text a mix lies to a task, should go with the improvement; an earlier start should help more.

Mirrors. Tables 2 and 3 of the paper (SFT loss and general loss after SFT, midtraining against the general-only control
and against continued pretraining), its timing and weight ablations, and the correlation figure. Mixes, weights, relative
start points, schedule and optimizer are the paper's; model, data and length are small.

Expected cost. About 6 CPU-minutes, three to six minutes on two cores depending on the processor, 0.3 GB of disk. The
defaults finish in six minutes on a processor without bfloat16 instructions: the smallest shape in fp32, every mix on the two
main tasks (code on the code task and math on word problems are the main contrasts) on three trunk seeds, and everything else
on the first. `--set full=True` runs everything with every seed. `--set` takes any keyword of `study`: a larger model is
`"sizes=('micro',)" num_sequences=16 sft_num_sequences=16`, and the paper's own grid is `sizes=('70m','160m','410m','1b')
total_steps=61035 num_sequences=1024 seq_len=2048 ...` on other data.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from midstudy.data.data_args import DataChoice
from midstudy.recipe import (
    AdamW,
    Arm,
    Corpus,
    Cosine,
    Curriculum,
    Evaluation,
    Mixture,
    Phase,
    Start,
    Study,
    Task,
    TokenCounts,
    Tokenizer,
    pythia,
)
from midstudy.recipe.errors import RecipeError, inside
from midstudy.recipe.study import CONTROL

PAPER_STEPS = 61_035
"""Optimizer steps of the paper's training; its start steps are given on this scale (paper, Table 1)."""


@dataclass(frozen=True)
class Midtraining:
    """A mix with its weight and its own start: in the paper the start step belongs to the domain."""

    corpus: str
    weight: float
    paper_start_step: int

    def start_step(self, total_steps: int) -> int:
        return round(self.paper_start_step * total_steps / PAPER_STEPS)


# The paper's five mixes (Table 1), its continued-pretraining arms, and the start of its weight ablation.
MIXES = (
    Midtraining("code", 0.20, 6_000),
    Midtraining("math", 0.12, 20_000),
    Midtraining("instruction", 0.05, 40_000),
    Midtraining("qa", 0.20, 40_000),
    Midtraining("hqweb", 0.20, 40_000),
)
CONTINUED = (Midtraining("code", 1.0, 40_000), Midtraining("math", 1.0, 56_000))
TIMING_STARTS = (6_000, 20_000, 40_000, 50_000)
WEIGHTS = (0.10, 0.20, 0.50, 0.80, 1.0)  # the last is the continued-pretraining arm
WEIGHT_START = 40_000

TASKS = {  # name: (folder of a directory source, tokens that carry loss)
    "pycode": ("sft/pycode", "all_tokens"),
    "word_problems": ("sft/gsm8k", "target_tokens"),
    "science_qa": ("sft/sciqa", "all_tokens"),
    "long_form": ("sft/dialogue", "all_tokens"),
}
MATCHED = {"code": "pycode", "math": "word_problems"}


def study(
    *,
    data: DataChoice | None = None,
    name: str = "bridging_micro",
    sizes: tuple[str, ...] = ("nano",),
    trunk_seeds: tuple[int, ...] = (0, 1, 2),
    sft_seeds: tuple[int, ...] = (1337, 895),
    total_steps: int = 240,
    num_sequences: int = 8,
    seq_len: int = 128,
    peak_lr: float = 3e-3,
    sft_steps: int = 36,
    sft_num_sequences: int = 8,
    sft_peak_lr: float = 1e-3,
    precision: str = "fp32",
    vocab_size: int = 2_048,
    tokenizer_bytes: int = 2_000_000,
    general_bytes: int | None = 6_000_000,
    specialist_bytes: int | None = 3_000_000,
    task_items: int | None = 2_000,
    test_items: int = 192,
    full: bool = False,
) -> Study:
    """The study; its keyword arguments are what a sweep varies.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    data = data or DataChoice()
    corpora = {
        name: data.corpus(name, max_bytes=general_bytes if name == "general" else specialist_bytes)
        for name in ("general", *(mix.corpus for mix in MIXES))
    }
    tasks = {name: data.task(name, folder=folder, max_items=task_items) for name, (folder, _) in TASKS.items()}
    for keyword, seeds in (("trunk_seeds", trunk_seeds), ("sft_seeds", sft_seeds)):
        if not seeds or len(set(seeds)) < len(seeds):
            raise RecipeError(keyword, found=seeds, allowed="at least one seed, each once")
    grid = _Grid(
        corpora=corpora,
        tasks=tasks,
        tokenizer=Tokenizer(corpus=corpora["general"], vocab_size=vocab_size, max_bytes=tokenizer_bytes),
        total_steps=total_steps,
        num_sequences=num_sequences,
        seq_len=seq_len,
        peak_lr=peak_lr,
        precision=precision,
        sft_steps=sft_steps,
        sft_num_sequences=sft_num_sequences,
        sft_peak_lr=sft_peak_lr,
        test_items=test_items,
    )
    cells: dict[tuple[object, ...], Arm] = {}
    for size in sizes:
        for trunk_seed in trunk_seeds:
            for sft_seed in sft_seeds:
                firsts = trunk_seed == trunk_seeds[0], sft_seed == sft_seeds[0]
                for mix, task, group in _cells(*firsts, full=full):
                    arm = grid.arm(size, mix, task, trunk_seed, sft_seed, group)
                    known = cells.get(arm.factors)
                    if known is not None:  # one cell in several comparisons: the default code mix is a point of each
                        groups = (*known.groups, *(g for g in arm.groups if g not in known.groups))
                        arm = grid.arm(size, mix, task, trunk_seed, sft_seed, *groups)
                    cells[arm.factors] = arm
    datasets: list[Corpus | Task] = [*corpora.values(), *tasks.values()]
    return Study(
        name=name,
        question="Which midtraining mix, from which step and at which weight, helps which fine-tuning target?",
        arms=tuple(cells.values()),
        token_counts=tuple(
            TokenCounts(data=one, tokenizer=grid.tokenizer, num_documents=2_000, tokens_per_document=512, seed=42)
            for one in datasets
        ),
        notes=data.notes(),
    )


def _cells(trunk_is_first: bool, sft_is_first: bool, *, full: bool) -> Iterator[tuple[Midtraining | None, str, str]]:
    """(mix or none for the control, task, comparison) of one pair of seeds.

    Everything on the first trunk seed with the first SFT seed; on the other trunk seeds every mix on the two main tasks,
    so that "best of the five" has an interval over trunks; with the other SFT seeds the two main contrasts alone, since an
    SFT seed does not replicate a trunk. Nothing more unless `full`.
    """
    if full or (trunk_is_first and sft_is_first):
        yield from ((mix, task, "main") for task in TASKS for mix in (None, *MIXES))
        yield from ((mix, MATCHED[mix.corpus], "continued") for mix in CONTINUED)
        code = MIXES[0]
        yield from ((Midtraining("code", code.weight, start), "pycode", "timing") for start in TIMING_STARTS)
        yield from ((Midtraining("code", weight, WEIGHT_START), "pycode", "weight") for weight in WEIGHTS)
    elif sft_is_first:
        yield from ((mix, task, "main") for task in MATCHED.values() for mix in (None, *MIXES))
    elif trunk_is_first:
        for mix in MIXES:
            if mix.corpus in MATCHED:
                yield None, MATCHED[mix.corpus], "main"
                yield mix, MATCHED[mix.corpus], "main"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Grid:
    """What all arms have in common, and how one arm is made of it."""

    corpora: dict[str, Corpus]
    tasks: dict[str, Task]
    tokenizer: Tokenizer
    total_steps: int
    num_sequences: int
    seq_len: int
    peak_lr: float
    precision: str
    sft_steps: int
    sft_num_sequences: int
    sft_peak_lr: float
    test_items: int

    @cache
    def trunk(self, size: str, seed: int) -> Curriculum:
        """General text throughout: AdamW, 10 % warmup, cosine to a 300th of the peak, as the paper's configurations."""
        model = pythia(size, vocab_size=self.tokenizer.vocab_size, max_seq_len=self.seq_len)
        pretrain = Phase(
            name="pretrain",
            data=Mixture.only(self.corpora["general"]),
            loss="all_tokens",
            num_steps=self.total_steps,
            num_sequences=self.num_sequences,
            seq_len=self.seq_len,
            optimizer=AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
            schedule=Cosine(
                peak_lr=self.peak_lr,
                floor_lr=self.peak_lr / 300,
                warmup_steps=round(self.total_steps / 10),
                total_steps=self.total_steps,
            ),
            precision=self.precision,
            seed=seed,
            optimizer_state="reset",
            data_positions="reset",
        )
        return Curriculum.of(Start(model=model, tokenizer=self.tokenizer, seed=seed), pretrain)

    @cache
    def before_sft(self, size: str, mix: Midtraining | None, seed: int) -> Curriculum:
        """The trunk, left at the mix's start step for its mixture; the trunk itself for the control."""
        trunk = self.trunk(size, seed)
        if mix is None:
            return trunk
        with inside(f"mixes.{mix.corpus}"):
            mixture = Mixture.blend(self.corpora["general"], {self.corpora[mix.corpus]: mix.weight})
            start_step = mix.start_step(self.total_steps)
            return trunk.branch(start_step=start_step, data=mixture, name=f"midtrain {mix.corpus}")

    @cache
    def sft(self, task: str, seed: int) -> Phase:
        """Fine-tuning: fresh AdamW, 10 % warmup from 0, cosine to 0 (nightingal3/midtraining `sft_only.sh`)."""
        return Phase(
            name=f"sft {task}",
            data=self.tasks[task],
            loss=TASKS[task][1],
            num_steps=self.sft_steps,
            num_sequences=self.sft_num_sequences,
            seq_len=self.seq_len,
            optimizer=AdamW(beta1=0.9, beta2=0.999, weight_decay=0.01, clip_norm=0.0),
            schedule=Cosine(
                peak_lr=self.sft_peak_lr,
                floor_lr=0.0,
                warmup_steps=max(1, round(self.sft_steps / 10)),
                total_steps=self.sft_steps,
            ),
            precision=self.precision,
            seed=seed,
            optimizer_state="reset",
            data_positions="reset",
        )

    def arm(self, size: str, mix: Midtraining | None, task: str, trunk_seed: int, sft_seed: int, *groups: str) -> Arm:
        curriculum = self.before_sft(size, mix, trunk_seed)
        return Arm(
            size=size,
            mix=mix.corpus if mix else CONTROL,
            weight=mix.weight if mix else 0.0,
            start_step=mix.start_step(self.total_steps) if mix else 0,
            task=task,
            trunk_seed=trunk_seed,
            sft_seed=sft_seed,
            groups=groups,
            curriculum=curriculum.then(self.sft(task, sft_seed)),
            task_evaluation=self.task_evaluation(task),
            general_evaluation=self.general_evaluation(),
        )

    @cache
    def task_evaluation(self, task: str) -> Evaluation:
        """SFT loss on the test split."""
        return Evaluation(
            data=self.tasks[task],
            split="test",
            loss=TASKS[task][1],
            seq_len=self.seq_len,
            max_sequences=self.test_items,
        )

    @cache
    def general_evaluation(self) -> Evaluation:
        """General-corpus loss: what fine-tuning forgets."""
        return Evaluation(
            data=self.corpora["general"],
            split="test",
            loss="all_tokens",
            seq_len=self.seq_len,
            max_sequences=self.test_items // 2,
        )
