"""nanochat's training setup as functions; the quantities that a small study reduces are fields.

Source: karpathy/nanochat at 92c6654 (`base_train.py`, `mid_train.py`, `chat_sft.py`, `chat_rl.py`, `gpt.py`, `muon.py`).
The model is this project's: parallel blocks with LayerNorm, biases and GELU, where nanochat has RMS norms and squared ReLU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from midstudy.plan.steps_of import StepsOf
from midstudy.recipe import (
    AdamW,
    Curriculum,
    Generation,
    Linear,
    Mixture,
    ModelShape,
    Phase,
    Rollouts,
    Start,
    Tokenizer,
    factors,
)
from midstudy.recipe.data import CONVERSATION_TOKENS
from midstudy.recipe.packing import Packing
from midstudy.recipe.schedule import WarmupStableDecay
from midstudy.recipe.task_mixture import TaskMixture, TaskPart
from midstudy.studies.nanochat.text import Text

HOLD_SHARE = Fraction("0.8")
"""The share of the items of midtraining that is read at the full rate."""

WARMDOWN_SHARE = Fraction("0.2")
"""The share of the base's steps over which its rate falls to 0."""

SFT_RATE = 0.02
"""The rate of SFT at its start, as a share of the full rate; it falls linearly to 0."""

RL_RATE = 0.05
"""The same of RL."""

RL_TOP_K = 50
"""Among how many tokens RL draws."""


@dataclass(frozen=True, kw_only=True)
class Rewards:
    """The size of RL: in each of its steps, `num_samples` answers to each of `num_prompts` items."""

    num_prompts: int
    num_samples: int
    num_steps: int


@dataclass(frozen=True, kw_only=True)
class Scale:
    """The quantities that a small study reduces. Everything else in this module follows nanochat."""

    model: ModelShape
    optimizer: AdamW
    tokenizer_bytes: int
    seq_len: int
    base_steps: int
    num_sequences: int
    sft_num_sequences: int
    streams: int = 1
    precision: str = "fp32"

    def tokenizer(self, text: Text) -> Tokenizer:
        """Return a tokenizer trained on general text, with the marks of conversations."""
        return Tokenizer(
            corpus=text.general,
            vocab_size=self.model.vocab_size,
            max_bytes=self.tokenizer_bytes,
            special_tokens=CONVERSATION_TOKENS,
        )

    def base(self, text: Text, *, seed: int) -> Curriculum:
        """Return pretraining on general text: constant rates, falling to 0 over the last fifth."""
        schedule = WarmupStableDecay(
            peak_lr=1.0,
            floor_lr=0.0,
            warmup_steps=0,
            decay_steps=max(1, round(WARMDOWN_SHARE * self.base_steps)),
            total_steps=self.base_steps,
        )
        labels = factors(trunk_seed=seed, after="base", mid="none", sft="none", rl="none")
        start = Start(model=self.model, tokenizer=self.tokenizer(text), seed=seed)
        return Curriculum.of(
            start,
            Phase(
                name=f"base seed {seed}",
                data=Mixture.only(text.general),
                loss="all_tokens",
                num_steps=self.base_steps,
                schedule=schedule,
                factors=labels,
                **self._shared(seed),
            ),
        )

    def midtrain(
        self,
        base: Curriculum,
        parts: tuple[TaskPart, ...],
        *,
        steps_of: StepsOf,
        order: str = "shuffled",
        packing: str = "stream",
        num_epochs: int = 1,
        loss: str = "all_tokens",
        optimizer: AdamW | None = None,
        mid: str = "mixed",
    ) -> Curriculum:
        """Return whole epochs of conversations after the base, at the full rates until they fall to 0 with the last items.

        The optimizer starts from zero moments, as the source's does.

        Args:
            optimizer: in place of the scale's.
            mid: what the factor `mid` says of these arms.
        """
        seed = int(dict(base.factors)["trunk_seed"])
        streams = self.streams if packing == "stream" else 1
        phase = Phase(
            name=f"mid {mid} seed {seed}",
            data=TaskMixture(parts=parts, order=order, packing=packing, streams=streams, num_epochs=num_epochs),
            loss=loss,
            num_steps=0,
            schedule=None,
            factors=factors(after="mid", mid=mid),
            **self._shared(seed) | {"optimizer": optimizer or self.optimizer},
        )
        packed = Packing.of(phase, base.start.tokenizer)
        schedule = steps_of.hold_then_linear(packed, peak_lr=1.0, hold_share=HOLD_SHARE)
        return base.then(replace(phase, num_steps=steps_of(packed), schedule=schedule))

    def finetune(
        self, run: Curriculum, text: Text, *, steps_of: StepsOf, loss: str = "target_tokens", sft: str = "masked"
    ) -> Curriculum:
        """Return one epoch of SFT after a run: a conversation a row, the loss on the assistant's tokens, a falling rate."""
        labels = dict(run.factors)
        phase = Phase(
            name=f"sft {sft} after {labels['mid']} seed {labels['trunk_seed']}",
            data=TaskMixture(parts=tuple(TaskPart(task=task) for task in text.tuning.values()), packing="rows"),
            loss=loss,
            num_steps=0,
            schedule=None,
            factors=factors(after="sft", sft=sft),
            **self._shared(int(labels["trunk_seed"])) | {"num_sequences": self.sft_num_sequences},
        )
        steps = steps_of(Packing.of(phase, run.start.tokenizer))
        schedule = Linear(peak_lr=SFT_RATE, floor_lr=0.0, warmup_steps=0, total_steps=steps)
        return run.then(replace(phase, num_steps=steps, schedule=schedule))

    def reward(self, run: Curriculum, answers: Generation, size: Rewards, *, rl: str) -> Curriculum:
        """Return RL after a run: drawn answers to the train items of a task, rewarded where they are right.

        Args:
            answers: how answers are generated and scored, as in an evaluation.
            rl: what the factor `rl` says of these arms.
        """
        labels = dict(run.factors)
        rollouts = Rollouts(
            prompts=answers.data,
            score=answers.score,
            num_samples=size.num_samples,
            max_new_tokens=answers.max_new_tokens,
            tool=answers.tool,
            top_k=RL_TOP_K,
        )
        return run.then(
            Phase(
                name=f"rl on {rl} seed {labels['trunk_seed']}",
                data=rollouts,
                loss="policy_gradient",
                num_steps=size.num_steps,
                schedule=Linear(peak_lr=RL_RATE, floor_lr=0.0, warmup_steps=0, total_steps=size.num_steps),
                factors=factors(after="rl", rl=rl),
                **self._shared(int(labels["trunk_seed"])) | {"num_sequences": size.num_prompts * size.num_samples},
            )
        )

    def _shared(self, seed: int) -> dict[str, Any]:
        """Return what all phases have in common."""
        return {
            "num_sequences": self.num_sequences,
            "seq_len": self.seq_len,
            "optimizer": self.optimizer,
            "precision": self.precision,
            "seed": seed,
            "optimizer_state": "reset",
            "data_positions": "reset",
        }
