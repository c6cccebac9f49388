"""The gain of a candidate: the formula on whole documents, exact zeros, and the jackknife by its definition."""

from __future__ import annotations

import numpy as np
import pytest
from builders.languages import language_documents

from midstudy.similarity.byte_expert import NUM_GROUPS, ByteCounts, ByteExpert, windows_of
from midstudy.similarity.expert_gain import Scored, bits_per_byte, gain_of


def encoded(language: int, number: int, seed: int) -> list[bytes]:
    return [text.encode() for text in language_documents(language, number=number, seed=seed)]


def counts_of(documents: list[bytes]) -> ByteCounts:
    return ByteCounts.of(documents, [place % NUM_GROUPS for place in range(len(documents))])


GENERAL, CANDIDATE, TASK = (counts_of(encoded(language, 40, 1)) for language in (1, 2, 3))
DEV = encoded(2, 12, 2)


def test_the_gain_is_the_formula_summed_over_each_document() -> None:
    scored = Scored(DEV)
    general, task = (scored.expert(one).probabilities() for one in (GENERAL, TASK))
    found = gain_of(scored.expert(CANDIDATE), general=general, task=task, scored=scored, share=0.3)
    for document, bits in zip(DEV, found.bits_by_document, strict=True):
        windows, _ = windows_of([document], with_end=False)
        g, c, t = (ByteExpert(one, windows).probabilities() for one in (GENERAL, CANDIDATE, TASK))
        assert bits == pytest.approx(np.log2((0.5 * t + 0.5 * (0.3 * c + 0.7 * g)) / (0.5 * t + 0.5 * g)).sum())
    assert bits_per_byte(general=general, task=None, scored=scored) == pytest.approx(
        np.mean([-np.log2(ByteExpert(GENERAL, windows_of(DEV, with_end=False)[0]).probabilities())])
    )


def test_general_text_itself_gains_exactly_nothing() -> None:
    scored = Scored(DEV)
    general = scored.expert(GENERAL)
    found = gain_of(general, general=general.probabilities(), task=None, scored=scored, share=0.2)
    assert np.abs(found.bits_by_document).max() < 1e-10


def test_the_standard_error_is_the_jackknife_over_groups() -> None:
    scored = Scored(DEV)
    general = scored.expert(GENERAL).probabilities()
    found = gain_of(scored.expert(CANDIDATE), general=general, task=None, scored=scored, share=0.2)
    documents = encoded(2, 40, 1)
    gains = []
    for group in range(NUM_GROUPS):
        kept = [one for place, one in enumerate(documents) if place % NUM_GROUPS != group]
        part = gain_of(scored.expert(counts_of(kept)), general=general, task=None, scored=scored, share=0.2)
        gains.append(part.bits_by_document.sum() / scored.bytes_by_document.sum())
    assert found.standard_error == pytest.approx(np.sqrt(7 / 8 * np.sum((gains - np.mean(gains)) ** 2)))


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_share_outside_0_and_1_is_an_error(share: float) -> None:
    scored = Scored(DEV)
    expert = scored.expert(GENERAL)
    with pytest.raises(ValueError, match="share: expected a number between 0 and 1"):
        gain_of(expert, general=expert.probabilities(), task=None, scored=scored, share=share)
