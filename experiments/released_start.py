"""Does midtraining still help a model that others have pretrained, and does averaging its last states help more?

Hypothesis. A code mix on top of a released checkpoint lowers the loss after fine-tuning on code, against as many steps of
general text from the same checkpoint; the earlier the checkpoint, the more, as earlier start steps do in the paper
("Midtraining Bridges Pretraining and Posttraining Distributions", arXiv 2510.14865). The mean of the last states of the
midtraining is no worse than its end (OLMo-core's `ModelMergeCallback` averages last states, outside the decay; OLMo 2
averages the seeds of an anneal). Here the last states lie within the decay, which leaves averaging least to do.

Mirrors. The paper's code mix and its timing ablation, with a released Pythia as the trunk: one study a step of the release.
General text here is not what the release was trained on. The control reads the same general text for as many steps, so
that midtraining is told from mere further training.

Expected cost. Two CPU-minutes with an exported nano model as the release; about an hour of one CPU core with pythia-70m.
Raise `num_sequences` and `seq_len` on a GPU.

    midstudy export "pretrain nano seed 0 to step 157" --to hf --output trunk157
    midstudy run experiments/released_start.py --set release=trunk157 --set release_step=157 --set peak_lr=1e-3
    midstudy run experiments/released_start.py --set release=hub:EleutherAI/pythia-70m@COMMIT --set release_step=71000
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.data.release import released_pythia
from midstudy.recipe import (
    AdamW,
    Arm,
    Average,
    Corpus,
    Cosine,
    Curriculum,
    Evaluation,
    Mixture,
    Phase,
    Start,
    Study,
    Task,
    TokenCounts,
)
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.study import CONTROL

CODE_SHARE = 0.20


def study(
    *,
    data: DataChoice | None = None,
    name: str = "released_start",
    release: str = "",
    release_step: int = 0,
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
    """The study; `release` is a folder or `hub:OWNER/NAME@COMMIT`, `release_step` the step of its training, if known.

    A trunk seed of the table is here the seed of the order of the data: the release's weights are the same in all arms.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    if not release:
        raise RecipeError(
            "release",
            found="none",
            allowed="a folder of a GPT-NeoX checkpoint, or hub:OWNER/NAME@COMMIT",
            fix="--set release=FOLDER; `midstudy export` makes one from any state.",
        )
    data = data or DataChoice()
    general = data.corpus("general", max_bytes=6_000_000)
    code = data.corpus("code", max_bytes=3_000_000)
    pycode = data.task("pycode", folder="sft/pycode", max_items=2_000)
    start = released_pythia(release, step=release_step or None)
    mixture = Mixture.blend(general, {code: CODE_SHARE})

    def trained(seed: int) -> Curriculum:
        """General text from the release on: warmed up anew, since a release comes without its optimizer."""
        schedule = Cosine(
            peak_lr=peak_lr, floor_lr=peak_lr / 300, warmup_steps=max(1, num_steps // 10), total_steps=num_steps
        )
        phase = Phase(
            name="go on",
            data=Mixture.only(general),
            loss="all_tokens",
            num_steps=num_steps,
            num_sequences=num_sequences,
            seq_len=seq_len,
            optimizer=AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
            schedule=schedule,
            precision=precision,
            seed=seed,
            optimizer_state="reset",
            data_positions="reset",
        )
        return Curriculum.of(start, phase)

    sft = Phase(
        name="sft pycode",
        data=pycode,
        loss="all_tokens",
        num_steps=sft_steps,
        num_sequences=num_sequences,
        seq_len=seq_len,
        optimizer=AdamW(beta1=0.9, beta2=0.999, weight_decay=0.01, clip_norm=0.0),
        schedule=Cosine(peak_lr=sft_peak_lr, floor_lr=0.0, warmup_steps=max(1, sft_steps // 10), total_steps=sft_steps),
        precision=precision,
        seed=sft_seed,
        optimizer_state="reset",
        data_positions="reset",
    )
    task_evaluation = Evaluation(data=pycode, split="test", loss="all_tokens", seq_len=seq_len, max_sequences=test_items)
    general_evaluation = Evaluation(
        data=general, split="test", loss="all_tokens", seq_len=seq_len, max_sequences=test_items // 2
    )

    def arm(mix: str, curriculum: Curriculum, seed: int) -> Arm:
        return Arm(
            size=start.model.name,
            mix=mix,
            weight=0.0 if mix == CONTROL else CODE_SHARE,
            start_step=0,
            task="pycode",
            trunk_seed=seed,
            sft_seed=sft_seed,
            groups=("main",),
            curriculum=curriculum.then(sft),
            task_evaluation=task_evaluation,
            general_evaluation=general_evaluation,
        )

    arms = []
    for seed in data_seeds:
        control = trained(seed)
        midtrained = control.branch(start_step=0, data=mixture, name="midtrain code")
        average = Average.last(midtrained, num_states=averaged_states, every_steps=average_every_steps)
        arms += [
            arm(CONTROL, control, seed),
            arm("code", midtrained, seed),
            arm("code_averaged", Curriculum.of(Start.averaged(average)), seed),
        ]
    datasets: list[Corpus | Task] = [general, code, pycode]
    return Study(
        name=name,
        question=f"Does code midtraining from {start.weights} help fine-tuning on code, and does averaging its last states?",
        arms=tuple(arms),
        token_counts=tuple(
            TokenCounts(data=one, tokenizer=start.tokenizer, num_documents=2_000, tokens_per_document=512, seed=42)
            for one in datasets
        ),
        notes=data.notes(),
    )
