"""Tallies: what a use of a split reads and leaves out, what is reported, and what is rejected."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from midstudy.data.tally import Tally, blocks_tally, items_tally
from midstudy.data.tokens import TokenizedSplit


def items(*pairs: tuple[int, int]) -> TokenizedSplit:
    """Return items with these numbers of prompt and target tokens; targets include the end-of-text token."""
    lengths = [prompt + target for prompt, target in pairs]
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return TokenizedSplit([np.zeros(sum(lengths), np.uint16)], [offsets], [np.array([prompt for prompt, _ in pairs])])


SHORT, LONG_PROMPT, LONG_TARGET = (4, 6), (40, 6), (4, 60)


@pytest.mark.parametrize(
    ("pairs", "loss", "max_sequences", "expected"),
    [
        # used, left out, target tokens, target tokens seen, truncated targets, used without a target token
        ([SHORT] * 3, "target_tokens", None, (3, {}, 18, 18, 0, 0)),
        ([SHORT, LONG_PROMPT, LONG_PROMPT], "target_tokens", None, (1, {"no_target": 2}, 18, 6, 0, 0)),
        ([SHORT, LONG_PROMPT, LONG_PROMPT], "all_tokens", None, (3, {}, 18, 6, 2, 2)),
        ([LONG_TARGET], "target_tokens", None, (1, {}, 60, 13, 1, 0)),  # inputs 0 to 15 predict tokens 1 to 16
        ([(16, 5)], "target_tokens", None, (1, {}, 5, 1, 1, 0)),  # the last input predicts the first target token
        ([(17, 5)], "target_tokens", None, (0, {"no_target": 1}, 5, 0, 0, 0)),
        ([(0, 5)], "target_tokens", None, (1, {}, 4, 4, 0, 0)),  # its first token has no context to predict it from
        # The first two usable items; what follows the second was not requested.
        (
            [LONG_PROMPT, SHORT, SHORT, SHORT],
            "target_tokens",
            2,
            (2, {"no_target": 1, "past_max_sequences": 1}, 18, 12, 0, 0),
        ),
        ([SHORT, LONG_PROMPT], "target_tokens", 5, (1, {"no_target": 1}, 12, 6, 0, 0)),
    ],
)
def test_items_within_sixteen_tokens(pairs, loss, max_sequences, expected):
    tally = items_tally(
        items(*pairs),
        data="pycode",
        split_name="test",
        use="evaluation",
        seq_len=16,
        target_only=loss == "target_tokens",
        max_sequences=max_sequences,
    )
    counts = (tally.used, tally.left_out, tally.target_tokens, tally.target_tokens_seen, tally.num_cut)
    assert (*counts, tally.num_without_target) == expected


@pytest.mark.parametrize(
    ("num_tokens", "max_sequences", "used", "left_out"),
    [
        (34, None, 34, {}),
        (40, None, 34, {"no_block": 6}),
        (16, None, 0, {"no_block": 16}),
        (90, 3, 51, {"no_block": 5, "past_max_sequences": 34}),
    ],
)
def test_blocks_of_sixteen_tokens(num_tokens, max_sequences, used, left_out):
    split = TokenizedSplit([np.zeros(num_tokens, np.uint16)], [np.array([0, num_tokens])], None)
    tally = blocks_tally(split, data="code", split_name="test", use="evaluation", seq_len=16, max_sequences=max_sequences)
    assert (tally.used, tally.left_out) == (used, left_out)


def tally(used: int, left_out: dict[str, int] | None = None, **facts: Any) -> Tally:
    shared: dict[str, Any] = {"data": "pycode", "split": "test", "use": "evaluation", "unit": "items", "limit": 64}
    return Tally(**{**shared, "used": used, "left_out": left_out or {}, **facts})


SEEN: dict[str, Any] = {"target_tokens": 1_000, "target_tokens_seen": 950}


@pytest.mark.parametrize(
    ("use", "is_much", "message"),
    [
        (tally(100), False, ""),
        (tally(100, {"no_target": 11}), False, ""),
        (tally(100, {"no_target": 12}), True, ""),
        (tally(1, {"past_max_items": 10_000, "past_max_sequences": 10_000}), False, ""),  # requested by limits
        (tally(1, {"no_target": 99}), True, ""),
        (tally(1, {"no_target": 100}), True, "Raise seq_len"),
        (tally(0, {"no_target": 1}), True, r"tasks\.pycode test, evaluation at 64 tokens: 1 of 1 items left out"),
        (tally(0, {"no_block": 16}, unit="tokens"), True, r"corpora\.pycode .* Add text, or lower seq_len"),
        (tally(0, {"empty": 16}, unit="documents"), True, "most have no text"),
        (tally(2, {"does_not_fit": 1, "after_it": 300}, unit="documents"), True, "Raise max_bytes, or remove the document"),
        (tally(100, {"does_not_fit": 1}, unit="documents"), True, ""),  # reported however few: not requested
        (tally(1, {"past_one_document": 1_000}, unit="documents"), True, ""),  # reported, although the limit requests it
        (tally(100, **SEEN), False, ""),
        (tally(100, **{**SEEN, "target_tokens_seen": 890}), True, ""),
        (tally(100, **{**SEEN, "target_tokens_seen": 9}, num_cut=100), True, r"1,000 target tokens \(0\.9 %\).*the targets"),
        (tally(5, {"no_target": 95}, **{**SEEN, "target_tokens_seen": 9}), True, r"\(0\.9 %\).*shorten the prompts"),
        (tally(100, **{**SEEN, "target_tokens_seen": 9}, num_cut=1), True, ""),  # 99 are seen whole, and one is huge
        (tally(100, **{**SEEN, "target_tokens_seen": 0}, num_without_target=100), True, ""),  # prompts are trained on
        (tally(100, **SEEN, num_without_target=11), True, ""),
    ],
)
def test_losses_above_a_tenth_are_reported_and_uses_of_less_than_a_hundredth_are_rejected(use, is_much, message):
    assert use.is_much == is_much
    if message:
        with pytest.raises(ValueError, match=message):
            use.require_enough()
    else:
        use.require_enough()


@pytest.mark.parametrize(
    ("use", "sentence"),
    [
        (
            tally(2, {"no_target": 38}, target_tokens=1_179, target_tokens_seen=63),
            "pycode test, evaluation at 64 tokens: 38 of 40 items left out (no target token within 64 tokens); 2 used, "
            "with 63 of 1,179 target tokens (5.34 %)",
        ),
        (
            tally(60, {"does_not_fit": 1, "after_it": 300}, use="text", unit="documents", limit=None),
            "pycode test, text: 301 of 361 documents left out (1 too large for max_bytes, 300 after that one); 60 used",
        ),
        (
            tally(60, {"past_max_items": 300}, use="text", limit=None, is_whole=False),
            "pycode test, text: at least 300 items left out (past max_items); 60 used",
        ),
        (tally(60, num_cut=3), "pycode test, evaluation at 64 tokens: all 60 items used; 3 targets cut"),
    ],
)
def test_sentences(use, sentence):
    assert use.sentence == sentence
    assert Tally.from_json(use.as_json()) == use
    assert Tally.from_metrics(use.as_metrics(), data=use.data, split=use.split, use=use.use) == use
