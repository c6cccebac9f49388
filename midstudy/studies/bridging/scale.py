"""The paper's training setup as functions; the quantities that a small study reduces are fields (arXiv 2510.14865 §3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from midstudy.recipe import (
    AdamW,
    Arm,
    Average,
    Corpus,
    Cosine,
    Curriculum,
    Evaluation,
    Measure,
    Mix,
    Mixture,
    Phase,
    Start,
    Task,
    TokenCounts,
    Tokenizer,
    factors,
    pythia,
)
from midstudy.recipe.data import Dataset, ReleasedTokenizer
from midstudy.recipe.errors import RecipeError, inside
from midstudy.recipe.factors import Factors

CONTROL = "control"
"""The value of the factor `mix` of an arm that reads only general text."""

COLUMNS = ("sft_loss", "general_loss")
"""The compared columns: loss after fine-tuning (nats per token, test split) on the arm's task and on its general corpus."""

TARGETS_ONLY = frozenset({"word_problems"})
"""Tasks whose prompts carry no loss: on GSM8K the paper trains only on the answers."""

PAPER_STEPS = 61_035
"""Optimizer steps of the paper's training, to which its start steps refer (Table 1)."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The quantities that a small study reduces. Everything else in this module follows the paper's configurations."""

    size: str = "nano"
    total_steps: int = 240
    num_sequences: int = 8
    seq_len: int = 128
    peak_lr: float = 3e-3
    sft_steps: int = 36
    sft_num_sequences: int = 8
    sft_peak_lr: float = 1e-3
    sft_warmup_steps: int | None = None
    """Default: a tenth of `sft_steps`, rounded."""
    precision: str = "fp32"
    vocab_size: int = 2_048
    tokenizer_bytes: int = 2_000_000
    test_items: int = 192

    def tokenizer(self, general: Corpus) -> Tokenizer:
        """Return a tokenizer trained on the general corpus."""
        return Tokenizer(corpus=general, vocab_size=self.vocab_size, max_bytes=self.tokenizer_bytes)

    def pretrain(self, general: Corpus, *, seed: int) -> Curriculum:
        """Return a pretraining run on general text: AdamW, 10 % warmup, cosine decay to 1/300 of the peak."""
        start = Start(
            model=pythia(self.size, vocab_size=self.vocab_size, max_seq_len=self.seq_len),
            tokenizer=self.tokenizer(general),
            seed=seed,
        )
        return self.continue_from(start, general, seed=seed, name=f"pretrain {self.size} seed {seed}")

    def continue_from(self, start: Start, general: Corpus, *, seed: int, name: str, **more: str | int | float) -> Curriculum:
        """Return a run on general text from a given start. `more` are additional factors of the study."""
        labels = factors(size=start.model.name, trunk_seed=seed, mix=CONTROL, weight=0.0, start_step=0, **more)
        schedule = Cosine(
            peak_lr=self.peak_lr,
            floor_lr=self.peak_lr / 300,
            warmup_steps=max(1, round(self.total_steps / 10)),
            total_steps=self.total_steps,
        )
        optimizer = AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0)
        data = Mixture.only(general)
        return Curriculum.of(start, self._phase(name, labels, data, self.num_sequences, schedule, optimizer, seed))

    def midtrain(
        self, trunk: Curriculum, specialists: Mapping[Corpus, float], *, start_step: int, mix: str = ""
    ) -> Curriculum:
        """Branch off the trunk at `start_step`, with a mixture of its general text and specialists.

        Args:
            specialists: share of each specialist corpus.
            mix: name of the mixture; default: the names of its specialists.
        """
        mix, weight = mix or " + ".join(corpus.name for corpus in specialists), sum(specialists.values())
        size, seed = trunk.start.model.name, dict(trunk.factors)["trunk_seed"]
        with inside(f"mixes.{mix}"):
            return trunk.branch(
                start_step=start_step,
                data=Mixture.blend(general_of(trunk), specialists),
                name=f"midtrain {size} {mix_label(mix, weight, start_step)} seed {seed}",
                factors=factors(mix=mix, weight=weight, start_step=start_step),
            )

    def finetune(self, run: Curriculum, task: Task, *, seed: int) -> Arm:
        """Return an arm that fine-tunes a run on a task, measured before and after fine-tuning.

        A fresh AdamW, 10 % warmup from 0, cosine decay to 0 (nightingal3/midtraining `sft_only.sh`).
        """
        run_factors = dict(run.factors)
        label = mix_label(str(run_factors["mix"]), float(run_factors["weight"]), int(run_factors["start_step"]))
        name = f"sft {run_factors['size']} {label} → {task.name}, trunk {run_factors['trunk_seed']}, SFT {seed}"
        schedule = Cosine(
            peak_lr=self.sft_peak_lr,
            floor_lr=0.0,
            warmup_steps=self.sft_warmup_steps or max(1, round(self.sft_steps / 10)),
            total_steps=self.sft_steps,
        )
        optimizer = AdamW(beta1=0.9, beta2=0.999, weight_decay=0.01, clip_norm=0.0)
        labels = factors(task=task.name, sft_seed=seed)
        tuned = run.then(self._phase(name, labels, task, self.sft_num_sequences, schedule, optimizer, seed))
        evaluations = dict(zip(COLUMNS, (self.evaluation(task), self.evaluation(general_of(run))), strict=True))
        return Arm(
            curriculum=tuned,
            measures={
                column + when: Measure(state=state, evaluation=evaluation)
                for when, state in (("", tuned.state()), ("_before", run.state()))
                for column, evaluation in evaluations.items()
            },
        )

    def evaluation(self, data: Dataset) -> Evaluation:
        """Return the evaluation of loss on the test split: up to `test_items` items of a task, or half as many sequences
        of a corpus."""
        num_sequences = self.test_items if isinstance(data, Task) else self.test_items // 2
        return Evaluation(data=data, split="test", loss=loss_of(data), seq_len=self.seq_len, max_sequences=num_sequences)

    def counts(self, datasets: Iterable[Dataset], tokenizer: Tokenizer | ReleasedTokenizer) -> list[TokenCounts]:
        """Return token counts of a sample of each data set, as in the authors' similarity script."""
        return [
            TokenCounts(data=dataset, tokenizer=tokenizer, num_documents=2_000, tokens_per_document=512, seed=42)
            for dataset in datasets
        ]

    def _phase(
        self,
        name: str,
        labels: Factors,
        data: Mixture | Task,
        num_sequences: int,
        schedule: Cosine,
        optimizer: AdamW,
        seed: int,
    ) -> Phase:
        return Phase(
            name=name,
            factors=labels,
            data=data,
            loss=loss_of(data),
            num_steps=schedule.total_steps,
            num_sequences=num_sequences,
            seq_len=self.seq_len,
            optimizer=optimizer,
            schedule=schedule,
            precision=self.precision,
            seed=seed,
            optimizer_state="reset",
            data_positions="reset",
        )


def loss_of(data: Mixture | Dataset) -> str:
    """Return which tokens of a data set carry loss."""
    return "target_tokens" if isinstance(data, Task) and data.name in TARGETS_ONLY else "all_tokens"


def general_of(run: Curriculum) -> Corpus:
    """Return the general corpus of a run: the base of its first mixture, or that of the runs whose average it starts from.

    Raises:
        RecipeError: no phase has a base corpus.
    """
    while not run.stretches and isinstance(run.start.weights, Average):
        run = run.start.weights.states[0].curriculum
    for placed in run.stretches:
        data = placed.phase.data
        if isinstance(data, Mixture) and data.base_corpus is not None:
            return data.base_corpus
    raise RecipeError("run", expected="a run that begins with general text", got="no phase with a base corpus")


def mix_label(mix: str, weight: float, start_step: int) -> str:
    """Return `control`, or mix, weight in percent and start step as in `code20@6k` or `code20@6500`."""
    if mix == CONTROL:
        return mix
    short = f"{start_step // 1000}k" if start_step and start_step % 1000 == 0 else f"{start_step}"
    return f"{mix}{100 * weight:g}@{short}"


def mixes_of(arms: Iterable[Arm]) -> list[Mix]:
    """Return the mixtures of the arms' midtraining, each once, for the comparison with the tasks."""
    mixes: dict[str, Mix] = {}
    for arm in arms:
        mixture = next(
            (placed.phase.data for placed in reversed(arm.curriculum.stretches) if isinstance(placed.phase.data, Mixture)),
            None,
        )
        if arm.factors["mix"] != CONTROL and mixture is not None:
            mix, weight = str(arm.factors["mix"]), float(arm.factors["weight"])
            name = f"{mix} {100 * weight:g} %"
            if name not in mixes:
                reference = general_of(arm.curriculum)
                mixes[name] = Mix(name=name, mixture=mixture, reference=reference, factors=factors(mix=mix, weight=weight))
    return list(mixes.values())
