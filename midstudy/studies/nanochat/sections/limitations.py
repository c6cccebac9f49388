"""What nanochat's report cannot say, and where its source contradicts itself."""

from __future__ import annotations

from midstudy.report.html import Html, bullets, paragraph
from midstudy.report.report import Report
from midstudy.report.sections import limitations as general

LIMITS = (
    "The model is not nanochat's: parallel blocks with LayerNorm, biases and GELU instead of RMS norms, squared ReLU and "
    "normalised queries and keys. The rate of the embedding is 0.02 of the source's, since it is not normalised and "
    "starts smaller; the other rates are the source's. Findings on optimizers are about this model.",
    "The text is built in: dialogue and guides in place of SmolTalk, fact tables and science questions in place of MMLU's "
    "auxiliary rows, problems from templates in place of GSM8K, and sums that the source does not have. Words have three to "
    "eight letters, and those of test are held out, where the source draws them from the words of training.",
    "Half of the items of midtraining spell, where the source has a quarter: a small model learns it from many words.",
    "Chat format says that a reply ends and holds no stray mark, and nothing of its sense.",
    "Answers are greedy and cut after a number of tokens; test items are the same for all seeds, so that intervals over "
    "seeds say nothing of other items.",
)

SLIPS = (
    "§2.2.2 shows MMLU as lines such as 'A. London'; the repository writes '- London=A'.",
    "§2.2.4 spells with hyphens; the repository writes 'word:w,o,r,d'. Its example of SpellingBee has no walk over letters.",
    "§3.4 has 13 ids beside 12 mask values, and marks the user's words 1; the table below it says 0.",
    "§5.3: the log has 12.5 % at step 100, which means 800 steps, and 80 % at 1,600, which means 2,000; 100 steps of 245 ms "
    "are 0.41 minutes, where it says 8.52, and 2,000 are 8.1, where it says 170.",
    "§5.1, 5.3 and 6.4 give 6, 2.8 and 1 to 2 hours for one run. 26.2 B tokens in 3 days are 101K a second, a 21st of the "
    "logged rate. An MFU of 45.67 at 2.14M tokens a second does not fit 12 layers: 24 to 28 % of 8 H100, or 76 to 89 % of 8 "
    "A100.",
    "Appendix B's lengths give 95.2M tokens, 182 steps of 524,288, neither 800 nor 2,000.",
    "§6.4 recommends 15 to 20 % knowledge, 1 to 5 % mathematics and 20 to 30 % spelling; its own rows have 11.8, 0.9 "
    "and 32.9 %.",
    "§9.3 and 9.5 say that special tokens have no gradient in SFT, yet the end of the assistant's turn has. The inputs of "
    "the base in 9.5 begin without BOS. Sections jump from 6 to 9.",
)


def limitations(report: Report) -> Html:
    """Show the limitations of the study and of its scale, then the contradictions of the walk-through."""
    shown = general.limitations(report, more=LIMITS)
    return shown + paragraph("Where the walk-through contradicts itself or the repository:") + bullets(SLIPS)
