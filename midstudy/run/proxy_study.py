"""The study behind `midstudy recommend --proxy`: small models trained with each candidate, on the planner and the store.

One trunk reads general text, down to a small learning rate. From its end start

- a branch for each candidate, at its share of the tokens, and one on general text alone: equally many steps at one small
  constant rate, so that all candidates have the same dose (learning rate × share). At a small rate, proxies rank data as
  large models do (arXiv 2512.24503).
- an expert for each candidate and for general text, which reads it alone at a higher rate. Their probabilities are mixed by
  `analysis/convex_weights.py`.

All are measured on the target's dev split, item by item. Nothing is fine-tuned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from midstudy.data.named_text import NamedText
from midstudy.data.source import resolve_source
from midstudy.recipe import (
    AdamW,
    Arm,
    Comparison,
    Corpus,
    Cosine,
    Curriculum,
    Evaluation,
    Measure,
    Mixture,
    Phase,
    Start,
    Study,
    Task,
    Tokenizer,
    factors,
    pythia,
    where,
)
from midstudy.recipe.data import Source, SourceMix
from midstudy.recipe.schedule import Constant

COLUMN = "target_loss"
BRANCH, EXPERT = "branch", "expert"
TRUNK_LENGTHS = 4
"""Steps of the trunk for each step of a branch or expert."""

_SIZE = "nano"
_VOCAB_SIZE = 1_024
_SEQ_LEN = 256
_NUM_SEQUENCES = 2
_PEAK_LR, _EXPERT_LR, _BRANCH_LR = 6e-3, 1e-3, 3e-4
_DEV_ITEMS = 128
_CORPUS_BYTES = 3_000_000
_TOKENIZER_BYTES = 1_000_000
_OF_SMALLEST = 0.9
"""A single file loses 4 % of its rows to dev and test where it becomes a corpus."""
_SEED = 0


def proxy_study(
    *,
    target: NamedText,
    general: NamedText,
    candidates: Sequence[NamedText],
    share: float,
    smallest_bytes: int,
    num_steps: int,
    name: str,
) -> Study:
    """Return the study with branches and experts of `num_steps` steps each.

    Args:
        smallest_bytes: of the train text of the smallest corpus; the tokenizer reads equally many bytes of each.

    Raises:
        RecipeError: the share is not in (0, 1), or the steps are not positive.
        ValueError: a source cannot be read.
    """
    base, corpora = _corpus(general), [_corpus(text) for text in candidates]
    source = _source(target)
    data = (
        Task(name=target.name, source=source, max_items=None)
        if target.is_task and isinstance(source, Source)  # a task has one source
        else Corpus(name=target.name, source=source, max_bytes=_CORPUS_BYTES)
    )
    max_bytes = min(_TOKENIZER_BYTES, int(_OF_SMALLEST * smallest_bytes) * (1 + len(corpora)))
    tokenizer = Tokenizer.of(
        dict.fromkeys((base, *corpora), f"1/{1 + len(corpora)}"), vocab_size=_VOCAB_SIZE, max_bytes=max_bytes
    )
    model = pythia(_SIZE, vocab_size=_VOCAB_SIZE, max_seq_len=_SEQ_LEN)
    same: dict[str, Any] = {"loss": "all_tokens", "num_sequences": _NUM_SEQUENCES, "seq_len": _SEQ_LEN, "seed": _SEED}
    same |= {"optimizer": AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0), "precision": "fp32"}
    trunk_steps = TRUNK_LENGTHS * num_steps
    schedule = Cosine(peak_lr=_PEAK_LR, floor_lr=_BRANCH_LR, warmup_steps=max(1, trunk_steps // 10), total_steps=trunk_steps)
    trunk = Curriculum.of(
        Start(model=model, tokenizer=tokenizer, seed=_SEED),
        Phase(
            name=f"trunk on {base.name}",
            factors=factors(trunk_seed=_SEED, part="trunk", corpus=base.name),
            data=Mixture.only(base),
            num_steps=trunk_steps,
            schedule=schedule,
            optimizer_state="reset",
            data_positions="reset",
            **same,
        ),
    )
    evaluation = Evaluation(
        data=data, split="dev", loss="all_tokens", seq_len=_SEQ_LEN, max_sequences=_DEV_ITEMS, items=True
    )

    def arm(part: str, corpus: Corpus, mixture: Mixture, lr: float, positions: str) -> Arm:
        phase = Phase(
            name=f"{part} {corpus.name}",
            factors=factors(part=part, corpus=corpus.name),
            data=mixture,
            num_steps=num_steps,
            schedule=Constant(lr=lr),
            optimizer_state="continue",
            data_positions=positions,
            **same,
        )
        run = trunk.then(phase)
        return Arm(curriculum=run, measures={COLUMN: Measure(state=run.state(), evaluation=evaluation, title="target loss")})

    arms = [arm(BRANCH, base, Mixture.only(base), _BRANCH_LR, "continue")]
    arms += [arm(BRANCH, one, Mixture.blend(base, {one: share}), _BRANCH_LR, "continue") for one in corpora]
    arms += [arm(EXPERT, one, Mixture.only(one), _EXPERT_LR, "reset") for one in (base, *corpora)]
    names = tuple(one.name for one in corpora)
    comparison = Comparison(
        name="branches",
        title="A branch with each candidate, against one on general text",
        arms=where(arms, part=BRANCH, corpus=names),
        references=where(arms, part=BRANCH, corpus=base.name),
        columns=(COLUMN,),
        match=("part",),
    )
    return Study(
        name=name,
        question=f"Which of {', '.join(names)} do small models want for {target.name}?",
        arms=arms,
        comparisons=[comparison],
        seeds=("trunk_seed",),
    )


def _source(text: NamedText) -> Source | SourceMix:
    if text.source is not None:
        return text.source
    declared = "".join(f",{key}={field}" for key, field in text.fields)
    return resolve_source(f"{text.path}{declared}", name=text.name, folder=text.name, is_task=False)


def _corpus(text: NamedText) -> Corpus:
    return Corpus(name=text.name, source=_source(text), max_bytes=_CORPUS_BYTES)
