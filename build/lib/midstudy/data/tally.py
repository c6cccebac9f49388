"""What a use of a split takes, what it leaves out and why: one type, one sentence for it, one threshold for rejection.

What the recipe's limits exclude (`max_bytes`, `max_items`, `max_sequences`, sample sizes) is intended. Everything else is a
loss: above a tenth it is reported wherever a study is shown; if less than a hundredth is left, the stage is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from midstudy.data.batches import usable_items
from midstudy.data.tokens import TokenizedSplit

MUCH = 0.1
"""A larger lost fraction is reported by plan, run and the first screen of the report."""

LEAST = 0.01
"""A stage that would use a smaller fraction is rejected."""

_WHY = {
    "past_max_bytes": "past max_bytes",
    "past_one_document": "past max_bytes, of which one document takes more than half",
    "past_max_items": "past max_items",
    "past_max_sequences": "past max_sequences",
    "outside_sample": "in documents outside the sample",
    "past_document_limit": "past the first {limit} of their document",
    "overlap": "sharing text with test items",
    "empty": "without text",
    "does_not_fit": "too large for max_bytes",
    "after_it": "after that one",
    "no_target": "no target token within {limit} tokens",
    "no_block": "too few to fill a block",
}
"""Every reason, as worded after a count."""

_ASKED_FOR = (
    "past_max_bytes",
    "past_one_document",
    "past_max_items",
    "past_max_sequences",
    "outside_sample",
    "past_document_limit",
    "overlap",
)

_TOLD = ("does_not_fit", "past_one_document")
"""Reported however small: a single document decided how much of the text is read."""

_REMEDY = {
    "no_target": "Raise seq_len, or shorten the prompts.",
    "no_block": "Add text, or lower seq_len.",
    "empty": "Look at the rows: most hold no text.",
    "after_it": "Raise max_bytes, or take the document that does not fit out of the data.",
    "cut": "Raise seq_len, or shorten the targets.",
}


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one use of a split takes.

    `use` is `preparation` (rows a source keeps, `all` splits), `text` (read and tokenised), `tokenizer` (its training text),
    `similarity`, `training` or `evaluation`. `used` and `left_out` (by reason) count `unit`: documents, items or tokens. If
    `is_whole` is false, the split was not read to its end and counts past a limit are lower bounds. `limit` is the `seq_len`
    of training and evaluation, or the tokens per document that a similarity counts.

    For a task within `limit`: `target_tokens` of all items considered, `target_tokens_seen` of the items used, `num_cut`
    used items whose target is truncated, and `num_without_target` used items that contribute only their prompt (loss over
    all tokens).
    """

    data: str
    split: str
    use: str
    unit: str
    used: int
    left_out: Mapping[str, int] = field(default_factory=dict)
    is_whole: bool = True
    limit: int | None = None
    target_tokens: int | None = None
    target_tokens_seen: int | None = None
    num_cut: int = 0
    num_without_target: int = 0

    @property
    def lost(self) -> int:
        """Units left out although no recipe limit excludes them."""
        return sum(number for reason, number in self.left_out.items() if reason not in _ASKED_FOR)

    @property
    def share_seen(self) -> float | None:
        """Fraction of target tokens seen. None if the split has no targets."""
        if self.target_tokens is None or self.target_tokens_seen is None:
            return None
        return self.target_tokens_seen / self.target_tokens if self.target_tokens else 1.0

    @property
    def is_much(self) -> bool:
        """Whether the loss must be reported wherever the study is shown."""
        if any(reason in self.left_out for reason in _TOLD) or self.num_without_target > MUCH * self.used:
            return True
        return self.lost > MUCH * (self.used + self.lost) or (self.share_seen is not None and self.share_seen < 1 - MUCH)

    def require_enough(self) -> None:
        """Reject a use that leaves almost nothing.

        Raises:
            ValueError: less than a hundredth of the units is used, or less than a hundredth of the target tokens is seen.
        """
        too_few = self.lost > 0 and self.used < LEAST * (self.used + self.lost)
        # With a loss over all tokens, prompts are trained on as well. One huge target outweighs a hundred short ones that
        # are seen whole: that is reported, not rejected.
        num_unseen = self.left_out.get("no_target", 0)
        are_most_cut = 2 * (num_unseen + self.num_cut) >= num_unseen + self.used
        unseen = self.num_without_target == 0 and are_most_cut and self.share_seen is not None and self.share_seen < LEAST
        if too_few or unseen:
            reason = max(_REMEDY, key=lambda one: self.num_cut if one == "cut" else self.left_out.get(one, 0))
            kind = "tasks" if self.unit == "items" else "corpora"
            raise ValueError(f"{kind}.{self.sentence}. At least {100 * LEAST:g} % has to be used. {_REMEDY[reason]}")

    @property
    def sentence(self) -> str:
        """One line, like `pycode test, evaluation at 64 tokens: 38 of 40 items left out (no target token within 64 tokens);
        2 used, with 63 of 1,179 target tokens (5.34 %)`.
        """
        use = f"{self.use} at {self.limit} tokens" if self.limit is not None else self.use
        number = sum(self.left_out.values())
        if not number:
            said = f"all {self.used:,} {self.unit} used"
        elif self.is_whole:
            said = f"{number:,} of {self.used + number:,} {self.unit} left out ({self.reasons}); {self.used:,} used"
        else:
            said = f"at least {number:,} {self.unit} left out ({self.reasons}); {self.used:,} used"
        if self.share_seen is not None:
            said += f", with {self.target_tokens_seen:,} of {self.target_tokens:,} target tokens ({self.percent_seen})"
        if self.num_cut:
            said += f"; {self.num_cut:,} targets cut"
        if self.num_without_target:
            said += f"; {self.num_without_target:,} items used for their prompts alone, without a target token"
        return f"{self.data} {self.split}, {use}: {said}"

    @property
    def reasons(self) -> str:
        """The reasons for what is left out, with counts if there are several; empty if nothing is."""
        reasons = {_WHY[reason].format(limit=self.limit): number for reason, number in self.left_out.items() if number}
        if len(reasons) == 1:
            return next(iter(reasons))
        return ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())

    @property
    def percent_seen(self) -> str:
        """Percentage of target tokens seen, like `4.8 %`; a dash if there are no targets."""
        return "–" if self.share_seen is None else f"{100 * self.share_seen:.3g} %"

    def as_metrics(self) -> dict[str, Any]:
        """The fields as stored in a stage's record."""
        facts = {"unit": self.unit, "used": self.used, **self.left_out}
        for name in ("is_whole", "limit", "target_tokens", "target_tokens_seen", "num_cut", "num_without_target"):
            if (value := getattr(self, name)) != type(self).__dataclass_fields__[name].default:
                facts[name] = value
        return facts

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Tally:
        """Inverse of `as_json`."""
        return cls(**{name: facts[name] for name in cls.__dataclass_fields__})

    @classmethod
    def from_metrics(cls, facts: Mapping[str, Any], *, data: str, split: str, use: str) -> Tally:
        """Inverse of `as_metrics`."""
        left_out = {name: value for name, value in facts.items() if name in _WHY}
        rest = {name: value for name, value in facts.items() if name not in _WHY}
        return cls(data=data, split=split, use=use, left_out=left_out, **rest)

    def as_json(self) -> dict[str, Any]:
        """Every field and derived value."""
        facts = {**asdict(self), "left_out": dict(self.left_out)}
        return {**facts, "share_seen": self.share_seen, "is_much": self.is_much, "text": self.sentence}


def items_tally(
    split: TokenizedSplit,
    *,
    data: str,
    split_name: str,
    use: str,
    seq_len: int,
    target_only: bool,
    max_sequences: int | None = None,
) -> Tally:
    """What training or an evaluation sees of a task's items, each truncated to `seq_len` inputs.

    Args:
        target_only: the loss covers targets only, so items without a target token within `seq_len` are left out.
        max_sequences: an evaluation uses the first so many usable items.
    """
    lengths = np.diff(split.offsets)
    assert split.prompt_lengths is not None
    first_targets = np.maximum(split.prompt_lengths, 1)
    seen = np.maximum(np.minimum(lengths, seq_len + 1) - first_targets, 0)
    usable = usable_items(split, seq_len=seq_len, target_only=target_only)
    chosen = usable[:max_sequences]
    num_read = len(lengths) if len(chosen) == len(usable) else int(chosen[-1]) + 1
    targets = lengths - first_targets
    return Tally(
        data=data,
        split=split_name,
        use=use,
        unit="items",
        used=len(chosen),
        left_out=_some(no_target=num_read - len(chosen), past_max_sequences=len(lengths) - num_read),
        limit=seq_len,
        target_tokens=int(targets[:num_read].sum()),
        target_tokens_seen=int(seen[chosen].sum()),
        num_cut=int((seen < targets)[chosen].sum()),
        num_without_target=int((seen[chosen] == 0).sum()),
    )


def blocks_tally(
    split: TokenizedSplit, *, data: str, split_name: str, use: str, seq_len: int, max_sequences: int | None = None
) -> Tally:
    """What training or an evaluation reads of a corpus's tokens, in blocks of `seq_len + 1`."""
    size, num_blocks = seq_len + 1, split.num_blocks(seq_len)
    used = num_blocks if max_sequences is None else min(num_blocks, max_sequences)
    return Tally(
        data=data,
        split=split_name,
        use=use,
        unit="tokens",
        used=used * size,
        left_out=_some(no_block=len(split.tokens) - num_blocks * size, past_max_sequences=(num_blocks - used) * size),
        limit=seq_len,
    )


def _some(**left_out: int) -> dict[str, int]:
    return {reason: number for reason, number in left_out.items() if number}
