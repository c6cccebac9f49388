"""When to start a midtraining mix and how heavy to make it: every start step with every weight.

Hypothesis. An early start and a heavy mix are two ways to the same number of specialist tokens; for a mix that lies close to
its task, the earlier of two arms with as many specialist tokens ends lower after fine-tuning, and a heavy mix from early on
costs the most general ability ("Midtraining Bridges Pretraining and Posttraining Distributions", arXiv 2510.14865).

Mirrors. The paper's timing and weight ablations, which vary one at a time; here they are crossed. Weights, relative start
points, schedule and optimizer are the paper's; model, data and length are small. In the report, the curve over start steps
is drawn at `main_weight`, the one over weights at `main_start_step`; the table of arms holds the whole grid.

Expected cost. About 8 CPU-minutes, 0.5 GB of disk. Reuses what a `bridging_micro` with the same settings has trained: its
trunks and the code arms of its ablations.

    midstudy run experiments/timing_weight.py
    midstudy run experiments/timing_weight.py --set mix=math --set main_weight=0.12 --set "weights=(0.12, 0.5)"
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.recipe import (
    AdamW,
    Arm,
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
    Tokenizer,
    pythia,
)
from midstudy.recipe.errors import RecipeError, inside, require_choice
from midstudy.recipe.study import CONTROL

TASKS = {  # mix: its matched task, the task's folder in a directory source, tokens that carry loss
    "code": ("pycode", "sft/pycode", "all_tokens"),
    "math": ("word_problems", "sft/gsm8k", "target_tokens"),
}


def study(
    *,
    data: DataChoice | None = None,
    name: str = "timing_weight",
    mix: str = "code",
    size: str = "nano",
    start_steps: tuple[int, ...] = (24, 79, 157, 197),
    weights: tuple[float, ...] = (0.1, 0.2, 0.5, 0.8),
    main_start_step: int = 24,
    main_weight: float = 0.2,
    trunk_seeds: tuple[int, ...] = (0, 1, 2),
    sft_seed: int = 1337,
    total_steps: int = 240,
    num_sequences: int = 8,
    seq_len: int = 128,
    peak_lr: float = 3e-3,
    sft_steps: int = 36,
    sft_peak_lr: float = 1e-3,
    precision: str = "fp32",
    vocab_size: int = 2_048,
    test_items: int = 192,
) -> Study:
    """The study; its keyword arguments are what a sweep varies.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    data = data or DataChoice()
    require_choice("mix", mix, tuple(TASKS))
    for keyword, main, among in (("main_start_step", main_start_step, start_steps), ("main_weight", main_weight, weights)):
        if main not in among:
            raise RecipeError(keyword, found=main, allowed=f"one of {', '.join(f'{one:g}' for one in among)}")
    task_name, folder, loss = TASKS[mix]
    general = data.corpus("general", max_bytes=6_000_000)
    specialist = data.corpus(mix, max_bytes=3_000_000)
    task = data.task(task_name, folder=folder, max_items=2_000)
    tokenizer = Tokenizer(corpus=general, vocab_size=vocab_size, max_bytes=2_000_000)

    def trunk(seed: int) -> Curriculum:
        """General text throughout: AdamW, 10 % warmup, cosine to a 300th of the peak, as the paper's configurations."""
        pretrain = Phase(
            name="pretrain",
            data=Mixture.only(general),
            loss="all_tokens",
            num_steps=total_steps,
            num_sequences=num_sequences,
            seq_len=seq_len,
            optimizer=AdamW(beta1=0.9, beta2=0.95, weight_decay=0.1, clip_norm=1.0),
            schedule=Cosine(
                peak_lr=peak_lr,
                floor_lr=peak_lr / 300,
                warmup_steps=round(total_steps / 10),
                total_steps=total_steps,
            ),
            precision=precision,
            seed=seed,
            optimizer_state="reset",
            data_positions="reset",
        )
        model = pythia(size, vocab_size=vocab_size, max_seq_len=seq_len)
        return Curriculum.of(Start(model=model, tokenizer=tokenizer, seed=seed), pretrain)

    sft = Phase(
        name=f"sft {task_name}",
        data=task,
        loss=loss,
        num_steps=sft_steps,
        num_sequences=num_sequences,
        seq_len=seq_len,
        optimizer=AdamW(beta1=0.9, beta2=0.999, weight_decay=0.01, clip_norm=0.0),
        schedule=Cosine(
            peak_lr=sft_peak_lr, floor_lr=0.0, warmup_steps=max(1, round(sft_steps / 10)), total_steps=sft_steps
        ),
        precision=precision,
        seed=sft_seed,
        optimizer_state="reset",
        data_positions="reset",
    )
    task_evaluation = Evaluation(data=task, split="test", loss=loss, seq_len=seq_len, max_sequences=test_items)
    general_evaluation = Evaluation(
        data=general, split="test", loss="all_tokens", seq_len=seq_len, max_sequences=test_items // 2
    )

    def arm(seed: int, curriculum: Curriculum, *, start_step: int, weight: float) -> Arm:
        is_control = weight == 0
        groups = {
            "main": is_control or (start_step == main_start_step and weight == main_weight),
            "timing": is_control or weight == main_weight,
            "weight": is_control or start_step == main_start_step,
        }
        return Arm(
            size=size,
            mix=CONTROL if is_control else mix,
            weight=weight,
            start_step=start_step,
            task=task_name,
            trunk_seed=seed,
            sft_seed=sft_seed,
            groups=tuple(group for group, member in groups.items() if member),
            curriculum=curriculum.then(sft),
            task_evaluation=task_evaluation,
            general_evaluation=general_evaluation,
        )

    arms = []
    for seed in trunk_seeds:
        control = trunk(seed)
        arms.append(arm(seed, control, start_step=0, weight=0.0))
        for start_step in start_steps:
            for weight in weights:
                with inside(f"weights.{weight:g}"):
                    mixture = Mixture.blend(general, {specialist: weight})
                    branch = control.branch(start_step=start_step, data=mixture, name=f"midtrain {mix}")
                arms.append(arm(seed, branch, start_step=start_step, weight=weight))
    datasets: list[Corpus | Task] = [general, specialist, task]
    return Study(
        name=name,
        question=f"From which step and at which weight does a {mix} mix help {task_name} most, and at what cost?",
        arms=tuple(arms),
        token_counts=tuple(
            TokenCounts(data=one, tokenizer=tokenizer, num_documents=2_000, tokens_per_document=512, seed=42)
            for one in datasets
        ),
        notes=data.notes(),
    )
