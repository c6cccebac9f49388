"""What can a small chat model do after its base, its mid stage and SFT? Three states of one run, asked alike.

Hypothesis. The mid stage teaches the format, letters as answers, and a tool that the state cannot do without: the same
weights answer fewer sums when the calculator is silent. SFT adds little.

Mirrors. karpathy/nanochat's base → mid → SFT at 92c6654 with its measures, on built-in conversations: exact match with and
without the tool, letters and cloze by subject, format, bits per byte; and of the last state pass@k. Loss by position and
the gradient noise scale show the base's text. One seed of training: intervals and claims are over items, for these weights.

Expected cost. About 450 CPU seconds; LOG.md has what it showed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from midstudy.data.data_args import DataChoice
from midstudy.plan.steps_of import StepsOf
from midstudy.recipe import Arm, Choices, Claim, Comparison, Evaluation, Generation, Measure, NoiseScale, Study, Task, pythia
from midstudy.recipe.curriculum import State
from midstudy.studies.nanochat.abilities import FORMAT, Abilities
from midstudy.studies.nanochat.optimizer import muon_groups
from midstudy.studies.nanochat.scale import Scale
from midstudy.studies.nanochat.text import Text

ROWS = {
    "chat": 1_500,
    "choices": 2_000,
    "calculation": 2_000,
    "identity": 177,
    "spelling": 14_000,
    "spelling_bee": 1_500,
    "sums": 6_000,
}
"""Items of each task in the epoch of the mid stage."""

TUNING_ROWS = {
    "chat": 200,
    "choices": 200,
    "calculation": 200,
    "identity": 50,
    "spelling": 100,
    "spelling_bee": 100,
    "sums": 200,
}
"""Items of each task in SFT."""

WITH_TOOL = ("counting", "sums", "mathematics")
"""Answers that call the calculator; spelling does not."""

COMPARED = ("sums", "mathematics", "spelling", "knowledge", FORMAT, "general_bits")
"""Columns of the comparisons; the others are in the tables of shares and of measures."""

CHANCE = 0.25
"""Of a question with four choices."""

POSITIONS = 4
"""Equal parts of the context whose losses are compared."""


def study(
    *,
    data: DataChoice | None = None,
    steps_of: StepsOf | None = None,
    name: str = "abilities",
    size: str = "nano",
    seed: int = 0,
    base_steps: int = 200,
    num_sequences: int = 6,
    seq_len: int = 320,
    vocab_size: int = 1_024,
    general_bytes: int = 3_000_000,
    num_items: int = 100,
    num_samples: int = 8,
) -> Study:
    """Return the study; `--set` overrides its keyword arguments.

    Args:
        num_items: conversations of each test split that are answered; questions with choices are four times as many.
        num_samples: answers drawn for each item to estimate pass@k.

    Raises:
        RecipeError: a field cannot be trained; the message names it.
    """
    data, steps_of = data or DataChoice(), steps_of or StepsOf()
    text = Text.of(data, rows=ROWS, tuning_rows=TUNING_ROWS, general_bytes=general_bytes)
    cloze = data.task("choices_cloze", folder="choices_cloze", max_items=None)
    model = pythia(size, vocab_size=vocab_size, max_seq_len=seq_len)
    scale = Scale(
        model=model,
        optimizer=muon_groups(model.width),
        tokenizer_bytes=2_000_000,
        seq_len=seq_len,
        base_steps=base_steps,
        num_sequences=num_sequences,
        sft_num_sequences=num_sequences,
    )
    abilities = Abilities(text=text, seq_len=seq_len, num_items=num_items)
    base = scale.base(text, seed=seed)
    mid = scale.midtrain(base, text.parts, steps_of=steps_of)
    sft = scale.finetune(mid, text, steps_of=steps_of)
    arms = []
    for run in (base, mid, sft):
        measures = {**_asked(abilities, cloze, run.state()), **_of_text(abilities, run.state())}
        if run is sft:
            measures |= _drawn(abilities, run.state(), num_samples)
        arms.append(Arm(curriculum=run, measures=measures))
    comparisons = [
        Comparison(name="mid", title="What the mid stage changes", arms=arms[1:2], references=arms[:1], columns=COMPARED),
        Comparison(name="sft", title="What SFT changes", arms=arms[2:], references=arms[1:2], columns=COMPARED),
    ]
    return Study(
        name=name,
        question="What can a small chat model do after its base, its mid stage and SFT?",
        arms=arms,
        comparisons=comparisons,
        claims=claims(),
        seeds=("trunk_seed",),
        notes=data.notes(),
    )


def claims() -> list[Claim]:
    """Return the claims; margins were fixed before the first run."""

    def of(text: str, column: str, estimator: str, *, margin: float, comparison: str = "mid", **options: str) -> Claim:
        return Claim(
            text=text,
            source="experiments/abilities.py",
            estimator=f"midstudy.analysis.item_tests:{estimator}",
            comparison=comparison,
            column=column,
            options=options,
            margin=margin,
            family="abilities",
        )

    return [
        of("with its tool, the mid state answers more sums", "sums", "share_change", margin=0.1, other=silent("sums")),
        of(
            "with its tool, the mid state solves more word problems",
            "mathematics",
            "share_change",
            margin=0.0,
            other=silent("mathematics"),
        ),
        of("after the mid stage, letters are answered above chance", "knowledge", "share", margin=CHANCE),
        of("the mid stage teaches the format of a chat", FORMAT, "share_change", margin=0.5),
        of("the mid stage teaches spelling", "spelling", "share_change", margin=0.1),
        of("SFT teaches sums that the mid stage did not", "sums", "share_change", margin=0.0, comparison="sft"),
    ]


def silent(column: str) -> str:
    """Return the column of the same answers while the calculator is silent."""
    return f"{column}_without_tool"


def _asked(abilities: Abilities, cloze: Task, state: State) -> Mapping[str, Measure]:
    """Return exact match with and without the tool, letters and cloze, and format."""
    measures, without = abilities.of(state), abilities.of(state, tool=False)
    more = {silent(column): replace(without[column], title=f"{without[column].title}, no tool") for column in WITH_TOOL}
    most, seq_len = 4 * abilities.num_items, abilities.seq_len
    by_cloze = Choices(data=cloze, split="test", by="cloze", seq_len=seq_len, max_sequences=most)
    more["knowledge_cloze"] = Measure(
        state=state, evaluation=by_cloze, metric="accuracy", better="higher", title="the same questions, by cloze"
    )
    return {**measures, **more}


def _of_text(abilities: Abilities, state: State) -> Mapping[str, Measure]:
    """Return bits per byte, loss by position in the context, and the gradient noise scale on general text."""
    general, seq_len = abilities.text.general, abilities.seq_len
    by_position = Evaluation(
        data=general, split="test", loss="all_tokens", seq_len=seq_len, max_sequences=200, by_position=POSITIONS
    )
    noise = NoiseScale(data=general, split="test", seq_len=seq_len, num_batches=4, small=4, large=32, seed=0)
    return {
        **abilities.losses(state),
        **{
            f"loss_{part}_of_{POSITIONS}": Measure(
                state=state,
                evaluation=by_position,
                metric=f"loss_nats_{part}_of_{POSITIONS}",
                title=f"loss of general text, quarter {part} of the context",
            )
            for part in range(1, POSITIONS + 1)
        },
        "noise_scale": Measure(
            state=state, evaluation=noise, metric="noise_scale_sequences", title="gradient noise scale, general text"
        ),
    }


def _drawn(abilities: Abilities, state: State, num_samples: int) -> Mapping[str, Measure]:
    """Return pass@1 and pass@k of sums and word problems, of samples at temperature 1 among the 50 most likely tokens."""
    measures = {}
    for column in ("sums", "mathematics"):
        greedy = abilities.of(state)[column]
        assert isinstance(greedy.evaluation, Generation)
        drawn = replace(greedy.evaluation, temperature=1.0, top_k=50, num_samples=num_samples, pass_at=(1, num_samples))
        for k in drawn.pass_at:
            measures[f"{column}_pass_at_{k}"] = replace(
                greedy, evaluation=drawn, metric=f"pass_at_{k}", title=f"{greedy.title}, pass@{k}"
            )
    return measures
