"""Count what a stage uses of a split, what it leaves out and why; report large losses and reject almost empty use.

Text beyond the recipe's limits (`max_bytes`, `max_items`, `max_sequences`, sample sizes) or in other parts of a corpus is
left out intentionally. All other text left out is lost: a loss above a tenth is reported wherever a study is shown; if less
than a hundredth is left, the stage is rejected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tokenizers

from midstudy.data.batches import usable_items
from midstudy.data.prompts import prompts_with_room
from midstudy.data.tokens import TokenizedSplit

MUCH = 0.1
"""A larger lost fraction is reported by `plan`, `run` and the first screen of the report."""

LEAST = 0.01
"""A stage that would use a smaller fraction is rejected."""

_WHY = {
    "past_max_bytes": "past max_bytes",
    "past_one_document": "past max_bytes, of which one document takes more than half",
    "past_max_items": "past max_items",
    "other_part": "in other parts",
    "past_max_sequences": "past max_sequences",
    "outside_sample": "in documents outside the sample",
    "past_document_limit": "past the first {limit} of their document",
    "overlap": "sharing text with test items",
    "by_steps": "by the steps of their preparation",
    "past_shares": "of other sources after one of the mix ended",
    "empty": "without text",
    "does_not_fit": "too large for max_bytes",
    "after_it": "after that one",
    "no_target": "no target token within {limit} tokens",
    "no_room": "prompts of more than {limit} tokens, which leave no room for an answer",
    "no_block": "too few to fill a block",
    "past_last_batch": "past the last whole batch",
}
"""Maps every reason to its wording after a count."""

_INTENDED = (
    "past_max_bytes",
    "past_one_document",
    "past_max_items",
    "other_part",
    "past_max_sequences",
    "outside_sample",
    "past_document_limit",
    "overlap",
    "by_steps",
)

_ALWAYS_REPORTED = ("does_not_fit", "past_one_document")
"""Reported however small: a single document determined how much of the text is read."""

_REMEDY = {
    "no_target": "Raise seq_len, or shorten the prompts.",
    "no_room": "Raise seq_len, or lower max_new_tokens.",
    "no_block": "Add text, or lower seq_len.",
    "past_last_batch": "Lower num_sequences, seq_len or streams, or add items.",
    "past_shares": "Give the source that ends first a smaller share, or more text.",
    "empty": "Check the rows: most have no text.",
    "after_it": "Raise max_bytes, or remove the document that does not fit from the data.",
    "cut": "Raise seq_len, or shorten the targets.",
}


@dataclass(frozen=True, kw_only=True)
class Tally:
    """What one use of a split reads and what it leaves out.

    `use` is `preparation` (rows that built-in text keeps, of `all` splits, or documents that its steps keep of train),
    `text` (read and tokenised), `tokenizer` (its training text), `packing` (into the rows of batches), `similarity`,
    `training`, `prompts` (of rollouts) or `evaluation`. `used` and `left_out` (by reason) count `unit`: documents, items or
    tokens. If `is_whole` is false, the split was not read to its end, and counts past a limit are lower bounds. `limit` is
    the `seq_len` of packing, training and evaluation, the longest prompt of rollouts, or the number of tokens per document
    that a similarity counts.

    For a task: `target_tokens` of all items considered; `target_tokens_seen` of the used items within `limit`; `num_cut`,
    the used items with a truncated target; and `num_without_target`, the used items that contribute only their prompt (with
    a loss over all tokens).
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
        """Number of units left out although no recipe limit excludes them."""
        return sum(number for reason, number in self.left_out.items() if reason not in _INTENDED)

    @property
    def share_seen(self) -> float | None:
        """Fraction of target tokens seen; `None` if the split has no targets."""
        if self.target_tokens is None or self.target_tokens_seen is None:
            return None
        return self.target_tokens_seen / self.target_tokens if self.target_tokens else 1.0

    @property
    def is_much(self) -> bool:
        """True if the loss must be reported wherever the study is shown."""
        if any(reason in self.left_out for reason in _ALWAYS_REPORTED) or self.num_without_target > MUCH * self.used:
            return True
        return self.lost > MUCH * (self.used + self.lost) or (self.share_seen is not None and self.share_seen < 1 - MUCH)

    def require_enough(self) -> None:
        """Reject a use that leaves almost nothing.

        Raises:
            ValueError: less than a hundredth of the units is used, or less than a hundredth of the target tokens is seen.
        """
        too_few = self.lost > 0 and self.used < LEAST * (self.used + self.lost)
        # With a loss over all tokens, prompts are trained on as well. One huge target can outweigh a hundred short targets
        # that are seen whole: that is reported, not rejected.
        num_unseen = self.left_out.get("no_target", 0)
        are_most_cut = 2 * (num_unseen + self.num_cut) >= num_unseen + self.used
        unseen = self.num_without_target == 0 and are_most_cut and self.share_seen is not None and self.share_seen < LEAST
        if too_few or unseen:
            reason = max(_REMEDY, key=lambda reason: self.num_cut if reason == "cut" else self.left_out.get(reason, 0))
            kind = "tasks" if self.unit == "items" else "corpora"
            raise ValueError(f"{kind}.{self.sentence}. At least {100 * LEAST:g} % must be used. {_REMEDY[reason]}")

    @property
    def sentence(self) -> str:
        """One line, like `answers test, evaluation at 64 tokens: 38 of 40 items left out (no target token within 64 tokens);
        2 used, with 63 of 1,179 target tokens (5.34 %)`.
        """
        use = f"{self.use} at {self.limit} tokens" if self.limit is not None else self.use
        number = sum(self.left_out.values())
        if not number:
            counts = f"all {self.used:,} {self.unit} used"
        elif self.is_whole:
            counts = f"{number:,} of {self.used + number:,} {self.unit} left out ({self.reasons}); {self.used:,} used"
        else:
            counts = f"at least {number:,} {self.unit} left out ({self.reasons}); {self.used:,} used"
        if self.share_seen is not None:
            counts += f", with {self.target_tokens_seen:,} of {self.target_tokens:,} target tokens ({self.percent_seen})"
        if self.num_cut:
            counts += f"; {self.num_cut:,} targets cut"
        if self.num_without_target:
            counts += f"; {self.num_without_target:,} items used for their prompts alone, without a target token"
        return f"{self.data} {self.split}, {use}: {counts}"

    @property
    def reasons(self) -> str:
        """The reasons for leaving text out, with counts if there are several; empty if nothing is left out."""
        reasons = {_WHY[reason].format(limit=self.limit): number for reason, number in self.left_out.items() if number}
        if len(reasons) == 1:
            return next(iter(reasons))
        return ", ".join(f"{number:,} {reason}" for reason, number in reasons.items())

    @property
    def percent_seen(self) -> str:
        """Percentage of target tokens seen, like `4.8 %`; a dash if there are no targets."""
        return "–" if self.share_seen is None else f"{100 * self.share_seen:.3g} %"

    def as_metrics(self) -> dict[str, Any]:
        """Return the fields as stored in a stage's record."""
        facts = {"unit": self.unit, "used": self.used, **self.left_out}
        for name in ("is_whole", "limit", "target_tokens", "target_tokens_seen", "num_cut", "num_without_target"):
            if (value := getattr(self, name)) != type(self).__dataclass_fields__[name].default:
                facts[name] = value
        return facts

    @classmethod
    def from_json(cls, facts: Mapping[str, Any]) -> Tally:
        """Restore a tally from `as_json`."""
        return cls(**{name: facts[name] for name in cls.__dataclass_fields__})

    @classmethod
    def from_metrics(cls, facts: Mapping[str, Any], *, data: str, split: str, use: str) -> Tally:
        """Restore a tally from `as_metrics`."""
        left_out = {name: value for name, value in facts.items() if name in _WHY}
        rest = {name: value for name, value in facts.items() if name not in _WHY}
        return cls(data=data, split=split, use=use, left_out=left_out, **rest)

    def as_json(self) -> dict[str, Any]:
        """Return every field and derived value."""
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
    """Return what training or an evaluation uses of a task's items, each truncated to `seq_len` inputs.

    Args:
        target_only: True if the loss covers targets only; items without a target token within `seq_len` are then left out.
        max_sequences: the maximum number of usable items that an evaluation uses, from the first.
    """
    lengths = np.diff(split.offsets)
    targets, seen = split.num_targets(), split.num_targets(seq_len + 1)
    usable = usable_items(split, seq_len=seq_len, target_only=target_only)
    chosen = usable[:max_sequences]
    num_read = len(lengths) if len(chosen) == len(usable) else int(chosen[-1]) + 1
    return Tally(
        data=data,
        split=split_name,
        use=use,
        unit="items",
        used=len(chosen),
        left_out=_nonzero(no_target=num_read - len(chosen), past_max_sequences=len(lengths) - num_read),
        limit=seq_len,
        target_tokens=int(targets[:num_read].sum()),
        target_tokens_seen=int(seen[chosen].sum()),
        num_cut=int((seen < targets)[chosen].sum()),
        num_without_target=int((seen[chosen] == 0).sum()),
    )


def prompts_tally(
    split: TokenizedSplit, tokenizer: tokenizers.Tokenizer, *, data: str, split_name: str, longest: int
) -> Tally:
    """Return which conversations rollouts use: those whose prompt has at most `longest` tokens."""
    used = len(prompts_with_room(split, tokenizer, longest=longest))
    return Tally(
        data=data,
        split=split_name,
        use="prompts",
        unit="items",
        used=used,
        left_out=_nonzero(no_room=split.num_documents - used),
        limit=longest,
    )


def blocks_tally(
    split: TokenizedSplit, *, data: str, split_name: str, use: str, seq_len: int, max_sequences: int | None = None
) -> Tally:
    """Return what training or an evaluation uses of a corpus's tokens, in blocks of `seq_len + 1`."""
    size, num_blocks = seq_len + 1, split.num_blocks(seq_len)
    used = num_blocks if max_sequences is None else min(num_blocks, max_sequences)
    return Tally(
        data=data,
        split=split_name,
        use=use,
        unit="tokens",
        used=used * size,
        left_out=_nonzero(no_block=len(split.tokens) - num_blocks * size, past_max_sequences=(num_blocks - used) * size),
        limit=seq_len,
    )


def _nonzero(**left_out: int) -> dict[str, int]:
    return {reason: number for reason, number in left_out.items() if number}
