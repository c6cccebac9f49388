"""The optimizers of a nanochat study: Muon for matrices as in the source, and AdamW for every group."""

from __future__ import annotations

from midstudy.recipe import AdamW, Group, Muon

REFERENCE_WIDTH = 768
"""The width to which the rates of the embedding and the head refer; they are divided by the root of width / 768."""

EMBEDDING_STD = 0.02
"""Of the initial embedding here, where the source's is 1.

The source normalises the embedding before the first block, so that only a change relative to its size counts; here it enters
the residual stream as it is. Its rate is therefore multiplied by this: at the source's 0.2, the embedding of a width of 64
outgrew what the blocks add to it, and nothing was learnt but frequencies (measured in LOG.md).
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
            Group(select="embedding", lr_factor=0.2 * EMBEDDING_STD * scale),
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
