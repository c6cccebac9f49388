"""Does midtraining help a released pretrained model, and does averaging its last states help further?

Hypothesis. Midtraining a released checkpoint on a code mix lowers the loss after fine-tuning on code, compared with equally
many steps of general text from the same checkpoint. The earlier the checkpoint, the larger the effect, as for earlier start
steps in the paper ("Midtraining Bridges Pretraining and Posttraining Distributions", arXiv 2510.14865). The mean of the last
states of the midtraining is no worse than its final state (OLMo-core's `ModelMergeCallback` averages last states outside the
decay; OLMo 2 averages the seeds of an anneal). Here the last states are within the decay, where averaging can gain least.

Mirrors. The paper's code mix and its timing ablation, with a released Pythia, Llama or Qwen as the trunk: one study per
release step. The general text here is not that of the release. The control reads the same general text for equally many
steps, so that the effect of midtraining is separated from that of further training.

Expected cost. Two CPU-minutes with an exported nano model as the release; about an hour of one CPU core with pythia-70m.
Raise `num_sequences` and `seq_len` on a GPU.

    midstudy export "pretrain nano seed 0 to step 157" --to hf --output trunk157
    midstudy run experiments/released_start.py --set release=trunk157 --set release_step=157 --set peak_lr=1e-3
    midstudy run experiments/released_start.py --set release=hub:EleutherAI/pythia-70m@COMMIT --set release_step=71000
"""

from __future__ import annotations

from typing import Any

from midstudy.data.data_args import DataChoice
from midstudy.data.release import released_start
from midstudy.recipe import Average, Comparison, Curriculum, Start, Study, factors, where
from midstudy.recipe.data import END_OF_TEXT
from midstudy.recipe.errors import RecipeError
from midstudy.studies.bridging.scale import COLUMNS, Scale, mixes_of

CODE_SHARE = 0.20


def study(
    *,
    data: DataChoice | None = None,
    name: str = "released_start",
    release: str = "",
    release_step: int = 0,
    end_of_text: str = END_OF_TEXT,
    data_seeds: tuple[int, ...] = (0, 1, 2),
    sft_seed: int = 1337,
    num_steps: int = 60,
    averaged_states: int = 4,
    average_every_steps: int = 5,
    num_sequences: int = 16,
    seq_len: int = 128,
    peak_lr: float = 1e-4,
    sft_steps: int = 36,
    sft_peak_lr: float = 1e-4,
    precision: str = "fp32",
    test_items: int = 192,
) -> Study:
    """Return the study.

    The trunk seed of the tables is the seed of the data order: all arms start from the same released weights.

    Args:
        release: a folder or `hub:OWNER/NAME@COMMIT`.
        release_step: the training step of the release, if known; else 0.
        end_of_text: the special token of the release that ends documents, `<|end_of_text|>` in Llama 3.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    if not release:
        raise RecipeError(
            "release",
            expected="a folder of a checkpoint, or hub:OWNER/NAME@COMMIT",
            got="none",
            fix="Use --set release=FOLDER; `midstudy export` writes such a folder from any state.",
        )
    data = data or DataChoice()
    general, code = data.corpus("general", max_bytes=6_000_000), data.corpus("code", max_bytes=3_000_000)
    pycode = data.task("pycode", folder="sft/pycode", max_items=2_000)
    start = released_start(release, step=release_step or None, end_of_text=end_of_text)
    small: dict[str, Any] = {"total_steps": num_steps, "num_sequences": num_sequences, "seq_len": seq_len}
    small |= {"sft_steps": sft_steps, "sft_num_sequences": num_sequences, "sft_peak_lr": sft_peak_lr, "peak_lr": peak_lr}
    small |= {"sft_warmup_steps": max(1, sft_steps // 10), "precision": precision, "test_items": test_items}
    scale = Scale(size=start.model.name, **small)

    arms = []
    for seed in data_seeds:
        # The warmup starts from zero, because a release has no optimizer state.
        control = scale.continue_from(
            start, general, seed=seed, name=f"go on {start.model.name} seed {seed}", averaged_states=1
        )
        mixed = scale.midtrain(control, {code: CODE_SHARE}, start_step=0)
        average = Average.last(mixed, num_states=averaged_states, every_steps=average_every_steps)
        averaged = Curriculum.of(Start.averaged(average, factors=factors(averaged_states=averaged_states)))
        arms += [scale.finetune(run, pycode, seed=sft_seed) for run in (control, mixed, averaged)]
    last, mean = where(arms, mix="code", averaged_states=1), where(arms, averaged_states=averaged_states)
    return Study(
        name=name,
        question=f"Does code midtraining from {start.weights} help fine-tuning on code, and does averaging its last states?",
        arms=arms,
        comparisons=[
            Comparison(
                name=comparison, title=title, arms=compared, references=references, columns=COLUMNS, match=("size", "task")
            )
            for comparison, title, compared, references in (
                ("main", "Code against general text", last, where(arms, mix="control")),
                ("averaging", "The mean of the last states against the last state", mean, last),
            )
        ],
        counts=scale.counts([general, code, pycode], start.tokenizer),
        mixes=mixes_of(arms),
        notes=data.notes(),
    )
