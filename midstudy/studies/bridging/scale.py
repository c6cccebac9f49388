"""The paper's decisions as functions, and what is small in a small study as fields (arXiv 2510.14865, section 3)."""

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
"""The factor `mix` of an arm that reads general text alone."""

COLUMNS = ("sft_loss", "general_loss")
"""What is compared of an arm: nats per token on test splits after fine-tuning, of its task and of its general corpus."""

TARGETS_ONLY = frozenset({"word_problems"})
"""Tasks whose prompts carry no loss: the paper trains on the answers of GSM8K alone."""

PAPER_STEPS = 61_035
"""Optimizer steps of the paper's training, the scale of its start steps (Table 1)."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is small in a small study. Everything else here is as in the paper's configurations."""

    size: str = "nano"
    total_steps: int = 240
    num_sequences: int = 8
    seq_len: int = 128
    peak_lr: float = 3e-3
    sft_steps: int = 36
    sft_num_sequences: int = 8
    sft_peak_lr: float = 1e-3
    sft_warmup_steps: int | None = None
    """By default a tenth of `sft_steps`, rounded."""
    precision: str = "fp32"
    vocab_size: int = 2_048
    tokenizer_bytes: int = 2_000_000
    test_items: int = 192

    def tokenizer(self, general: Corpus) -> Tokenizer:
        """Trained on the general corpus."""
        return Tokenizer(corpus=general, vocab_size=self.vocab_size, max_bytes=self.tokenizer_bytes)

    def pretrain(self, general: Corpus, *, seed: int) -> Curriculum:
        """General text throughout: AdamW, 10 % warmup, cosine to a 300th of the peak."""
        start = Start(
            model=pythia(self.size, vocab_size=self.vocab_size, max_seq_len=self.seq_len),
            tokenizer=self.tokenizer(general),
            seed=seed,
        )
        return self.go_on(start, general, seed=seed, name=f"pretrain {self.size} seed {seed}")

    def go_on(self, start: Start, general: Corpus, *, seed: int, name: str, **more: str | int | float) -> Curriculum:
        """General text from a start. `more` are factors that the study adds to the usual ones."""
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
        """The trunk, left at `start_step` for a mixture of its general text with specialists; `mix` names the mixture, by
        default as its specialist."""
        mix, weight = mix or " + ".join(one.name for one in specialists), sum(specialists.values())
        size, seed = trunk.start.model.name, dict(trunk.factors)["trunk_seed"]
        with inside(f"mixes.{mix}"):
            return trunk.branch(
                start_step=start_step,
                data=Mixture.blend(general_of(trunk), specialists),
                name=f"midtrain {size} {mix_label(mix, weight, start_step)} seed {seed}",
                factors=factors(mix=mix, weight=weight, start_step=start_step),
            )

    def finetune(self, run: Curriculum, task: Task, *, seed: int) -> Arm:
        """Fine-tuning with fresh AdamW, 10 % warmup from 0, cosine to 0 (nightingal3/midtraining `sft_only.sh`), and what is
        measured before and after it."""
        known = dict(run.factors)
        label = mix_label(str(known["mix"]), float(known["weight"]), int(known["start_step"]))
        name = f"sft {known['size']} {label} → {task.name}, trunk {known['trunk_seed']}, SFT {seed}"
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
        """Loss on the test split: every item of a task up to `test_items`, half as many blocks of a corpus."""
        num_sequences = self.test_items if isinstance(data, Task) else self.test_items // 2
        return Evaluation(data=data, split="test", loss=loss_of(data), seq_len=self.seq_len, max_sequences=num_sequences)

    def counts(self, datasets: Iterable[Dataset], tokenizer: Tokenizer | ReleasedTokenizer) -> list[TokenCounts]:
        """Token counts of a sample of each data set, as in the authors' similarity script."""
        return [
            TokenCounts(data=one, tokenizer=tokenizer, num_documents=2_000, tokens_per_document=512, seed=42)
            for one in datasets
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
    """Which tokens carry loss."""
    return "target_tokens" if isinstance(data, Task) and data.name in TARGETS_ONLY else "all_tokens"


def general_of(run: Curriculum) -> Corpus:
    """The general corpus of a run: the base of its first mixture, or of that of the runs behind its average."""
    while not run.stretches and isinstance(run.start.weights, Average):
        run = run.start.weights.states[0].curriculum
    for stretch in run.stretches:
        data = stretch.phase.data
        if isinstance(data, Mixture) and data.base_corpus is not None:
            return data.base_corpus
    raise RecipeError("run", got="no phase with a base corpus", expected="a run that begins with general text")


def mix_label(mix: str, weight: float, start_step: int) -> str:
    """`control`, or mix, weight and start step as in `code20@6k` or `code20@6500`."""
    if mix == CONTROL:
        return mix
    short = f"{start_step // 1000}k" if start_step and start_step % 1000 == 0 else f"{start_step}"
    return f"{mix}{100 * weight:g}@{short}"


def mixes_of(arms: Iterable[Arm]) -> list[Mix]:
    """The mixtures that the arms' midtraining reads, each once, to be compared with the tasks."""
    found: dict[str, Mix] = {}
    for arm in arms:
        known = arm.factors
        mixture = next(
            (one.phase.data for one in reversed(arm.curriculum.stretches) if isinstance(one.phase.data, Mixture)), None
        )
        if known["mix"] != CONTROL and mixture is not None:
            mix, weight = str(known["mix"]), float(known["weight"])
            name = f"{mix} {100 * weight:g} %"
            if name not in found:
                reference = general_of(arm.curriculum)
                found[name] = Mix(name=name, mixture=mixture, reference=reference, factors=factors(mix=mix, weight=weight))
    return list(found.values())
