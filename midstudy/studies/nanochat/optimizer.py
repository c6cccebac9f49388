"""The optimizers of a nanochat study: Muon for matrices as in the source, and AdamW for every group."""

from __future__ import annotations

from midstudy.recipe import AdamW, Group, Muon

REFERENCE_WIDTH = 768
"""The width to which the rates of the embedding and the head refer; they are divided by the root of width / 768."""

EMBEDDING_FACTOR = 0.02
"""Of the source's rate of the embedding.

The source's embedding starts with a standard deviation of 1 and is normalised before the first block, so that only a change
relative to its size counts. Here it starts with sqrt(2 / (5 width)), 0.018 at the source's width of 1,280 and 0.079 at 64,
and enters the residual stream as it is. At the source's rate and a width of 64 no word was spelt after midtraining, at 0.02
of that rate 60 % were (one seed each, LOG.md).
"""

ADAMW_RATE = 0.006
"""The rate of every group without Muon, chosen on spelling alone at a width of 64."""


def muon_groups(width: int) -> AdamW:
    """Return the source's optimizer for a model of this width: Muon for matrices, a rate of AdamW for each other group.

    The source's model has no biases and no gains; ours have the head's rate.

    Source: karpathy/nanochat at 92c6654, `gpt.py` (`setup_optimizers`) and `muon.py`.
    """
    scale = (width / REFERENCE_WIDTH) ** -0.5
    muon = Muon(momentum=0.95, warm_from=0.85, warm_updates=300)
    return AdamW(
        beta1=0.8,
        beta2=0.95,
        epsilon=1e-10,
        weight_decay=0.0,
        clip_norm=1.0,
        groups=(
            Group(select="embedding", lr_factor=0.2 * EMBEDDING_FACTOR * scale),
            Group(select="head", lr_factor=0.004 * scale),
            Group(select="matrices", lr_factor=0.02, rule=muon),
            Group(select="vectors", lr_factor=0.004 * scale),
        ),
    )


def adamw_groups() -> AdamW:
    """Return AdamW with one rate, as four groups, so that a schedule is a multiplier with either optimizer."""
    groups = ("embedding", "head", "matrices", "vectors")
    return AdamW(
        beta1=0.9,
        beta2=0.95,
        weight_decay=0.0,
        clip_norm=1.0,
        groups=tuple(Group(select=name, lr_factor=ADAMW_RATE) for name in groups),
    )
