"""The comparison with a report of record notices a loss, a verdict and an arm that differ."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from outside.agreement import instructions, largest_difference, main, other_verdicts

ARMS = pd.DataFrame(
    {"state": ["a", "a", "b"], "task": ["x", "y", "x"], "sft_loss": [4.0, 3.0, 2.0], "general_loss": [5.0, 5.0, 5.0]}
)
CLAIMS = pd.DataFrame({"text": ["code helps", "math helps"], "verdict": ["yes", "inconclusive"]})


def test_the_largest_difference_is_over_all_losses_of_the_arms_in_both() -> None:
    ours = ARMS.assign(general_loss=[5.0, 5.0, 4.75], sft_loss=[4.0, 3.125, 2.0])
    assert largest_difference(ours, ARMS) == (3, 0.25)
    assert largest_difference(ours.iloc[:2], ARMS) == (2, 0.125)


def test_no_arm_in_common_and_other_losses_are_errors() -> None:
    with pytest.raises(ValueError, match="expected arms of the record"):
        largest_difference(ARMS.assign(state="other"), ARMS)
    with pytest.raises(ValueError, match="expected the losses general_loss, sft_loss"):
        largest_difference(ARMS.drop(columns="general_loss"), ARMS)


def test_a_verdict_that_differs_or_is_missing_is_named() -> None:
    assert other_verdicts(CLAIMS, CLAIMS) == []
    assert other_verdicts(CLAIMS.iloc[:1].assign(verdict="no"), CLAIMS) == [
        "code helps: no, on record yes",
        "math helps: not judged, on record inconclusive",
    ]


def test_vector_instructions_are_read_whole() -> None:
    assert instructions("flags : avx2 avx512f avx512_bf16x") == "avx2, avx512f"


@pytest.mark.parametrize(("nats", "verdict", "code"), [(0.0, "yes", 0), (0.007, "yes", 1), (0.0, "no", 1)])
def test_the_exit_code_says_whether_the_study_agrees(tmp_path: Path, nats: float, verdict: str, code: int) -> None:
    record, ours = tmp_path / "record", tmp_path / "store" / "studies" / "s"
    for folder, arms, claims in (
        (record, ARMS, CLAIMS),
        (ours, ARMS.assign(sft_loss=ARMS["sft_loss"] + nats), CLAIMS.assign(verdict=[verdict, "inconclusive"])),
    ):
        folder.mkdir(parents=True)
        arms.to_csv(folder / "arms.csv", index=False)
        claims.to_csv(folder / "claims.csv", index=False)
    assert main(str(tmp_path / "store"), "s", str(record)) == code
