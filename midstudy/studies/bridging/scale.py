"""The paper's training setup as functions; the quantities that a small study reduces are fields (arXiv 2510.14865 §3)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from midstudy.recipe import (
    AdamW,
    Arm,
    Average,
    Choice,
    Chosen,
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
    WarmupStableDecay,
    factors,
    pythia,
)
from midstudy.recipe.data import Dataset, ReleasedTokenizer
from midstudy.recipe.errors import RecipeError, inside
from midstudy.recipe.factors import Factors, joined
from midstudy.recipe.measure import BITS_PER_BYTE

CONTROL = "control"
"""The value of the factor `mix` of an arm that reads only general text."""

COLUMNS = ("sft_loss", "general_loss")
"""The compared columns: loss after fine-tuning (nats per token, test split) on the arm's task and on its general corpus."""

TITLES = {"sft_loss": "task loss", "general_loss": "general loss"}
"""What a reader calls the compared columns."""

TARGETS_ONLY = frozenset({"word_problems"})
"""Tasks whose prompts carry no loss: on GSM8K the paper trains only on the answers."""

PAPER_STEPS = 61_035
"""Optimizer steps of the paper's training, to which its start steps refer (Table 1)."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The quantities that a small study reduces. Everything else in this module follows the paper's configurations."""

    size: str = "nano"
    total_steps: int = 240
    num_sequences: int = 2
    seq_len: int = 384
    peak_lr: float = 6e-3
    decay_steps: int | None = None
    """Steps of a linear decay at the end, after a constant rate. Default: cosine decay from the end of the warmup."""
    sft_steps: int = 72
    sft_num_sequences: int = 2
    sft_peak_lr: float = 3e-3
    sft_warmup_steps: int | None = None
    """Default: a tenth of the steps of fine-tuning, rounded."""
    precision: str = "fp32"
    vocab_size: int = 2_048
    tokenizer_bytes: int = 2_000_000
    test_items: int = 128

    def tokenizer(self, corpora: Collection[Corpus], *, special_tokens: tuple[str, ...] = ()) -> Tokenizer:
        """Return a tokenizer trained on equally many bytes of each corpus; conversations need `CONVERSATION_TOKENS`.

        A tokenizer trained on general text alone cuts code and mathematics into two to three times as many tokens a byte,
        and both the similarities and the losses would depend on that.
        """
        share = Fraction(1, len(corpora))
        return Tokenizer.of(
            dict.fromkeys(corpora, share),
            vocab_size=self.vocab_size,
            max_bytes=self.tokenizer_bytes,
            special_tokens=special_tokens,
        )

    def pretrain(
        self, general: Corpus, *, tokenizer: Tokenizer | ReleasedTokenizer, seed: int, **more: str | int | float
    ) -> Curriculum:
        """Return a pretraining run on general text: AdamW, 10 % warmup, decay to 1/300 of the peak.

        `more` are additional factors of the study, which the run's name holds.
        """
        model = pythia(self.size, vocab_size=self.vocab_size, max_seq_len=self.seq_len)
        start = Start(model=model, tokenizer=tokenizer, seed=seed)
        name = " ".join(["pretrain", self.size, *map(str, more.values()), "seed", str(seed)])
        return self.continue_from(start, general, seed=seed, name=name, **more)

    def continue_from(self, start: Start, general: Corpus, *, seed: int, name: str, **more: str | int | float) -> Curriculum:
        """Return a run on general text from a given start. `more` are additional factors of the study."""
        labels = factors(size=start.model.name, trunk_seed=seed, mix=CONTROL, weight=0.0, start_step=0, **more)
        schedule = self._schedule()
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

    def read_after(self, trunk: Curriculum, corpus: Corpus, *, num_tokens: int) -> Curriculum:
        """Return the trunk followed by a corpus alone, trained like fine-tuning: the same specialist text, read later.

        The control reads `num_tokens` tokens of the corpus, rounded up to whole steps.
        """
        size, seed = trunk.start.model.name, int(dict(trunk.factors)["trunk_seed"])
        steps = -(-num_tokens // (self.sft_num_sequences * self.seq_len))
        name, labels = f"{corpus.name} after {size} seed {seed}", factors(mix=f"{corpus.name} after", weight=1.0)
        schedule, optimizer = self._sft_schedule(steps, self.sft_peak_lr), self._sft_optimizer()
        return trunk.then(self._phase(name, labels, Mixture.only(corpus), self.sft_num_sequences, schedule, optimizer, seed))

    def finetune(
        self,
        run: Curriculum,
        task: Task,
        *,
        seed: int,
        steps: int | None = None,
        labels: Factors = (),
        sft_peak_lr: float | Chosen | None = None,
        num_points: int = 0,
    ) -> Arm:
        """Return an arm that fine-tunes a run on a task, measured before and after fine-tuning.

        A fresh AdamW, 10 % warmup from 0, cosine decay to 0 (nightingal3/midtraining `sft_only.sh`).

        Args:
            steps: steps of fine-tuning; default `sft_steps`.
            labels: factors of the arm, where they differ from those of the run.
            sft_peak_lr: the peak learning rate, or one chosen on dev (`choose_sft_peak_lr`); default: that of the scale.
            num_points: points of the curves of both losses along fine-tuning; 0 for no curve.
        """
        steps = self.sft_steps if steps is None else steps
        peak_lr = self.sft_peak_lr if sft_peak_lr is None else sft_peak_lr
        tuned = self._tuned(run, task, seed=seed, steps=steps, labels=labels, peak_lr=peak_lr)
        measured = dict(zip(COLUMNS, (self.evaluation(task), self.evaluation(general_of(run))), strict=True))
        measures = {
            column + when: Measure(state=state, evaluation=evaluation, title=TITLES[column] + words)
            for when, state, words in (("", tuned.state(), ""), ("_before", run.state(), " before fine-tuning"))
            for column, evaluation in measured.items()
        }
        for column, evaluation in measured.items():
            in_bits, title = (name.replace("loss", BITS_PER_BYTE.name) for name in (column, TITLES[column]))
            measures[in_bits] = Measure(
                state=tuned.state(), evaluation=evaluation, metric=BITS_PER_BYTE.name, title=title.replace("_", " ")
            )
        measures["sft_loss_dev"] = Measure(
            state=tuned.state(), evaluation=self.evaluation(task, split="dev"), title="task loss, dev split"
        )
        if num_points:
            points = tuple(
                tuned.state(run.num_steps + round(steps * point / num_points)) for point in range(1, num_points + 1)
            )
            for column, evaluation in measured.items():
                title = f"{TITLES[column]} over fine-tuning"
                measures[f"{column}_curve"] = Measure(states=points, evaluation=evaluation, title=title)
        return Arm(curriculum=tuned, measures=measures)

    def choose_sft_peak_lr(
        self,
        run: Curriculum,
        task: Task,
        *,
        seed: int,
        among: Sequence[float],
        steps: int | None = None,
        labels: Factors = (),
    ) -> Chosen:
        """Return the peak learning rate, out of `among`, with the lowest loss on the task's dev split after fine-tuning.

        The candidates fine-tune `run`, the run of the first trunk seed; the same `Chosen` then serves the runs of all trunk
        seeds. A candidate is evaluated on dev only, on as many items as the test split of an arm. The optimum depends on
        the mix and the task, so each needs a choice of its own.
        """
        steps = self.sft_steps if steps is None else steps
        tried = {
            rate: self._tuned(run, task, seed=seed, steps=steps, labels=labels, peak_lr=rate, sft_peak_lr=rate).state()
            for rate in among
        }
        return Chosen(Choice.between("sft_peak_lr", tried, evaluation=self.evaluation(task, split="dev")))

    def _tuned(
        self,
        run: Curriculum,
        task: Task,
        *,
        seed: int,
        steps: int,
        labels: Factors,
        peak_lr: float | Chosen,
        **more: float,
    ) -> Curriculum:
        run_factors = dict(joined(run.factors, labels))
        label = mix_label(str(run_factors["mix"]), float(run_factors["weight"]), int(run_factors["start_step"]))
        longer = "" if steps == self.sft_steps else f" {steps} steps"
        name = f"sft{longer} {run_factors['size']} {label} → {task.name}, trunk {run_factors['trunk_seed']}, SFT {seed}"
        name += "".join(f", peak lr {rate:g}" for rate in more.values())
        schedule, optimizer = self._sft_schedule(steps, peak_lr), self._sft_optimizer()
        own = joined(labels, factors(task=task.name, sft_steps=steps, sft_seed=seed, **more))
        return run.then(self._phase(name, own, task, self.sft_num_sequences, schedule, optimizer, seed))

    def evaluation(self, data: Dataset, *, split: str = "test") -> Evaluation:
        """Return the evaluation of loss, bits per byte and every item's loss: up to `test_items` items of a task, or half
        as many sequences of a corpus."""
        return Evaluation(
            data=data,
            split=split,
            loss=loss_of(data),
            seq_len=self.seq_len,
            max_sequences=self.test_items if isinstance(data, Task) else self.test_items // 2,
            metrics=(BITS_PER_BYTE.name,),
            items=True,
        )

    def counts(self, datasets: Iterable[Dataset], tokenizer: Tokenizer | ReleasedTokenizer) -> list[TokenCounts]:
        """Return token counts of a sample of each data set, as in the authors' similarity script."""
        return [
            TokenCounts(data=dataset, tokenizer=tokenizer, num_documents=2_000, tokens_per_document=512, seed=42)
            for dataset in datasets
        ]

    def _schedule(self) -> Cosine | WarmupStableDecay:
        cosine = Cosine(
            peak_lr=self.peak_lr,
            floor_lr=self.peak_lr / 300,
            warmup_steps=max(1, round(self.total_steps / 10)),
            total_steps=self.total_steps,
        )
        if self.decay_steps is None:
            return cosine
        return WarmupStableDecay(
            peak_lr=cosine.peak_lr,
            floor_lr=cosine.floor_lr,
            warmup_steps=cosine.warmup_steps,
            decay_steps=self.decay_steps,
            total_steps=cosine.total_steps,
        )

    def _sft_schedule(self, steps: int, peak_lr: float | Chosen) -> Cosine:
        warmup_steps = self.sft_warmup_steps or max(1, round(steps / 10))
        return Cosine(peak_lr=peak_lr, floor_lr=0.0, warmup_steps=warmup_steps, total_steps=steps)

    def _sft_optimizer(self) -> AdamW:
        return AdamW(beta1=0.9, beta2=0.999, weight_decay=0.01, clip_norm=0.0)

    def _phase(
        self,
        name: str,
        labels: Factors,
        data: Mixture | Task,
        num_sequences: int,
        schedule: Cosine | WarmupStableDecay,
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
    is_masked = isinstance(data, Task) and (data.source.is_conversations or data.name in TARGETS_ONLY)
    return "target_tokens" if is_masked else "all_tokens"


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
