"""When should code enter pretraining, for a model that is then fine-tuned to write code? Change it to your question.

midstudy plan question.py    what would run, and what it costs
midstudy run question.py     train, evaluate, compare; ends on a report
"""

from midstudy.recipe import Comparison, Study, where
from midstudy.studies.bridging.scale import Scale


# `--set NAME=VALUE` varies a keyword: the steps at which code enters, and its share of the tokens from there on.
def study(*, data, starts: tuple[int, ...] = (24, 157), weight: float = 0.2, trunk_seeds: tuple[int, ...] = (0, 1, 2)):
    scale = Scale(size="nano")  # lengths, batch sizes and learning rates; `Scale` says which of them a paper fixes
    # Built-in text. `--data FOLDER` reads your JSONL files instead: general/train.jsonl, code/train.jsonl, sft/pycode/...
    general, code = data.corpus("general", max_bytes=3_000_000), data.corpus("code", max_bytes=1_500_000)
    task = data.task("pycode", folder="sft/pycode", max_items=500)
    tokenizer = scale.tokenizer([general, code])  # trained on equally many bytes of each
    arms = []
    for seed in trunk_seeds:  # everything is repeated with each seed: intervals and tests are over them
        trunk = scale.pretrain(general, tokenizer=tokenizer, seed=seed)
        runs = [trunk, *(scale.midtrain(trunk, {code: weight}, start_step=start) for start in starts)]
        # Fine-tuned, each trunk with an SFT seed of its own, and evaluated: losses are columns.
        arms += [scale.finetune(run, task, seed=1337 + seed) for run in runs]
    timing = Comparison(
        name="timing",
        arms=where(arms, mix="code"),
        references=where(arms, mix="control"),  # the trunk that never saw code, of the same size, task and seeds
        columns=("sft_loss", "general_loss"),  # what improves, and what it costs in general ability
        match=("size", "task"),
        along="start_step",
    )
    return Study(name="question", question="When should code enter pretraining?", arms=arms, comparisons=[timing])
