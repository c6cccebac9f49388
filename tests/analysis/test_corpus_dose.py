"""Dose of corpora within the training on corpora: what fine-tuning adds to the table's denominator does not count."""

from __future__ import annotations

import pandas as pd
import pytest

from midstudy.analysis.corpus_dose import corpus_dose


def test_arms_that_match_in_pretraining_have_one_dose_whatever_their_rates_of_fine_tuning() -> None:
    """Σ lr × share = 2 of code and 1 of math out of 10 on corpora; fine-tuning adds 0, 10 or 30 to the denominator."""
    totals = [10.0, 20.0, 40.0]
    arms = pd.DataFrame(
        {
            "items:a": [0, 8, 8],
            "dose:code": [2 / total for total in totals],
            "dose:math": [1 / total for total in totals],
            "dose:general": [7 / total for total in totals],
            "dose:a": [(total - 10) / total for total in totals],
        }
    )
    assert corpus_dose(arms, ["code"]).tolist() == pytest.approx([0.2] * 3)
    assert corpus_dose(arms, ["code", "math"]).tolist() == pytest.approx([0.3] * 3)
