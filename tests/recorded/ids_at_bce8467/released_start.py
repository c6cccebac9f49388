"""The arms of the first study on a released start, for the ids of its stages."""

from __future__ import annotations

from typing import Any

from builders.first_design import FirstScale

from midstudy.data.data_args import DataChoice
from midstudy.data.release import released_start
from midstudy.recipe import Average, Curriculum, Start, Study, factors
from midstudy.recipe.errors import RecipeError

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
    """Return the study.

    The trunk seed of the tables is the seed of the data order: all arms start from the same released weights.

    Args:
        release: a folder or `hub:OWNER/NAME@COMMIT`.
        release_step: the training step of the release, if known; else 0.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    if not release:
        raise RecipeError(
            "release",
            expected="a folder of a GPT-NeoX checkpoint, or hub:OWNER/NAME@COMMIT",
            got="none",
            fix="Use --set release=FOLDER; `midstudy export` writes such a folder from any state.",
        )
    data = data or DataChoice()
    general, code = data.corpus("general", max_bytes=6_000_000), data.corpus("code", max_bytes=3_000_000)
    pycode = data.task("pycode", folder="sft/pycode", max_items=2_000)
    start = released_start(release, step=release_step or None)
    small: dict[str, Any] = {"total_steps": num_steps, "num_sequences": num_sequences, "seq_len": seq_len}
    small |= {"sft_steps": sft_steps, "sft_num_sequences": num_sequences, "sft_peak_lr": sft_peak_lr, "peak_lr": peak_lr}
    small |= {"sft_warmup_steps": max(1, sft_steps // 10), "precision": precision, "test_items": test_items}
    scale = FirstScale(size=start.model.name, **small)

    arms = []
    for seed in data_seeds:
        # The warmup starts from zero, because a release has no optimizer state.
        control = scale.continue_from(
            start, general, seed=seed, name=f"go on {start.model.name} seed {seed}", averaged_states=1
        )
        mixed = scale.midtrain(control, {code: CODE_SHARE}, start_step=0)
        average = Average.last(mixed, num_states=averaged_states, every_steps=average_every_steps)
        averaged = Curriculum.of(Start.averaged(average, factors=factors(averaged_states=averaged_states)))
        arms += [scale.tuned(run, pycode, seed=sft_seed) for run in (control, mixed, averaged)]
    return Study(
        name=name,
        question=f"Does code midtraining from {start.weights} help fine-tuning on code, and does averaging its last states?",
        arms=arms,
        counts=scale.counts([general, code, pycode], start.tokenizer),
    )
