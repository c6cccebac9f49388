"""Does nanochat's mid stage teach what it is said to teach? Base → mid → SFT → RL at micro scale.

Hypothesis. A stage of conversations between pretraining and SFT teaches a small model a format, a tool and simple tasks that
SFT alone cannot teach it; the tasks have to be shuffled, since one after another the early ones are forgotten.

Mirrors. karpathy/nanochat at 92c6654: its tasks, renderer, loaders, optimizer, schedules and losses, with the arms that a
walk-through of it argues for and does not run (`--set full=True`). Data are built in; the model is this project's.
`--set scale=d20` plans the source's own scale.

Expected cost. See docs/nanochat.md.
"""

from __future__ import annotations

from midstudy.data.data_args import DataChoice
from midstudy.plan.steps_of import StepsOf
from midstudy.recipe import Study, pythia
from midstudy.recipe.errors import require_choice
from midstudy.studies.nanochat.abilities import Abilities
from midstudy.studies.nanochat.arms import arms_of, comparisons_of, orders, variants
from midstudy.studies.nanochat.claims import claims_for
from midstudy.studies.nanochat.d20 import REWARDS, scale_d20, text_d20
from midstudy.studies.nanochat.optimizer import adamw_groups, muon_groups
from midstudy.studies.nanochat.scale import Rewards, Scale
from midstudy.studies.nanochat.text import Text

ROWS = {
    "chat": 3_000,
    "choices": 2_500,
    "calculation": 1_000,
    "identity": 200,
    "spelling": 16_000,
    "spelling_bee": 3_000,
    "sums": 4_000,
}
"""Items of each task in an epoch of midtraining."""

TUNING_ROWS = {"chat": 400, "choices": 200, "calculation": 200, "identity": 100, "spelling": 100, "spelling_bee": 100}
"""Items of each task in SFT."""


def study(
    *,
    data: DataChoice | None = None,
    steps_of: StepsOf | None = None,
    name: str = "nanochat",
    scale: str = "micro",
    full: bool = False,
    size: str = "nano",
    trunk_seeds: tuple[int, ...] = (0, 1, 2),
    base_steps: int = 300,
    shrink: int = 1,
    num_items: int = 100,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Args:
        scale: `micro`, or `d20` for the source's own shape, batch and rows.
        full: whether to run all arms that the walk-through argues for, and RL.
        size, base_steps: of the scale `micro`.
        shrink: what the items of each task are divided by, to try the study in a minute.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    require_choice("scale", scale, ("micro", "d20"))
    data, steps_of = data or DataChoice(), steps_of or StepsOf()
    if scale == "d20":
        chosen, rewards, text = scale_d20(), REWARDS, text_d20(data)
    else:
        rows, tuning_rows = ({name: -(-most // shrink) for name, most in of.items()} for of in (ROWS, TUNING_ROWS))
        chosen, rewards = micro(size, base_steps), Rewards(num_prompts=8, num_samples=16, num_steps=60)
        text = Text.of(data, rows=rows, tuning_rows=tuning_rows, general_bytes=6_000_000)
    abilities = Abilities(text=text, seq_len=chosen.seq_len, num_items=num_items)
    mids = orders(text, is_full=full)
    if full:
        mids += variants(text, other_optimizer=adamw_groups())
    arms = arms_of(chosen, text, abilities, mids, seeds=trunk_seeds, steps_of=steps_of, rewards=rewards if full else None)
    comparisons = comparisons_of(arms)
    return Study(
        name=name,
        question="Does a mid stage of conversations teach what SFT cannot?",
        arms=arms,
        comparisons=comparisons,
        claims=claims_for(comparisons),
        seeds=("trunk_seed",),
        report="nanochat",
        notes=data.notes(),
    )


def micro(size: str, base_steps: int) -> Scale:
    """Return a scale for a few minutes of a CPU: 1,920 tokens a step, in rows that a conversation about letters fits."""
    model = pythia(size, vocab_size=1_024, max_seq_len=320)
    return Scale(
        model=model,
        optimizer=muon_groups(model.width),
        tokenizer_bytes=2_000_000,
        seq_len=320,
        base_steps=base_steps,
        num_sequences=6,
        sft_num_sequences=8,
    )
