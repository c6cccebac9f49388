"""Golden traces: results of every versioned component. A changed result requires a new version, and vice versa.

Integers and bytes are pinned exactly, floats up to the rounding differences between processors. If a trace fails, finished
studies can no longer be reproduced: if the change is intended, raise the component's version in `recipe/versions.py` and
record its trace again, with the new version in `@recorded`.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from builders.small_recipes import (
    CODE,
    GENERAL,
    MATH,
    PYCODE,
    TOKENIZER,
    WORDS,
    code_branch,
    phase,
    sft,
    start,
    trunk,
    with_muon,
)
from builders.small_study import write_split
from builders.training_runs import begin, curriculum, train
from safetensors.numpy import load_file

from midstudy.data.batches import Batches
from midstudy.data.conversation import as_turns, rendered
from midstudy.data.order import derive_key, permute
from midstudy.data.packing import pack
from midstudy.data.question import document_of_row
from midstudy.data.rows import with_fields
from midstudy.data.shards import write_split as write_shards
from midstudy.data.slots import slots_at
from midstudy.data.source import resolve_source
from midstudy.data.tokenizer import load_tokenizer, train_tokenizer
from midstudy.data.tokens import TokenizedSplit, read_split
from midstudy.evaluate.generate import Decoding, generate
from midstudy.execute.data import make_counts, make_tokenizer, make_tokens
from midstudy.execute.evaluation import evaluate_state
from midstudy.execute.rollouts import RolloutBatches
from midstudy.model.initialise import initialised
from midstudy.prepare.document import Document
from midstudy.prepare.pipeline import run_steps
from midstudy.recipe import (
    Choice,
    Choices,
    Constant,
    Corpus,
    Evaluation,
    Mixture,
    NoiseScale,
    Packing,
    RepresentationSimilarity,
    Rollouts,
    RotaryScaling,
    Source,
    Task,
    TaskMixture,
    TaskPart,
    TokenCounts,
    Tokenizer,
    llama,
    pythia,
    versions,
)
from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import Stretch
from midstudy.recipe.data import CONVERSATION_TOKENS, TokenizedData
from midstudy.recipe.preparation import (
    Chunk,
    Decontaminate,
    ExactDuplicates,
    Heuristics,
    NearDuplicates,
    Sample,
    Select,
    Splice,
    Step,
)
from midstudy.train.averaging import mean_weights
from midstudy.train.engine import TrainingRun

RECORDED_AT: dict[str, int] = {}
Test = TypeVar("Test", bound=Callable[..., None])


def recorded(name: str, *, version: int) -> Callable[[Test], Test]:
    """Mark a test as the trace that was recorded at this version of the component."""

    def mark(test: Test) -> Test:
        RECORDED_AT[name] = version
        return test

    return mark


def test_every_component_has_a_trace_recorded_at_its_version() -> None:
    assert {name: number for name, number in vars(versions).items() if name.isupper()} == RECORDED_AT


def digest(*pieces: bytes | np.ndarray[Any, Any]) -> str:
    whole = hashlib.sha256()
    for piece in pieces:
        whole.update(piece if isinstance(piece, bytes) else np.ascontiguousarray(piece).tobytes())
    return whole.hexdigest()[:16]


# -- model ------------------------------------------------------------------------------------------------------------


@recorded("MODEL", version=3)
def test_model() -> None:
    """Initial weights, logits, loss and the gradient of the loss."""
    model = initialised(pythia("nano", vocab_size=512), seed=0)
    weights = model.state_dict()
    assert weights["embedding.weight"][0, :3].tolist() == pytest.approx([-0.084555574, 0.0060327332, -0.050387837], rel=1e-5)
    assert weights["blocks.1.mlp_out.weight"][3, :3].tolist() == pytest.approx(
        [0.021259911, 0.019664636, -0.0056173983], rel=1e-5
    )
    ids = torch.arange(64).reshape(2, 32) * 7 % 512
    logits = model(ids)
    assert logits[1, 31, :4].tolist() == pytest.approx([0.19524543, 0.44219452, -0.19708471, 0.92926866], rel=1e-4)
    loss = model.scaled_loss(ids[:, :-1], ids[:, 1:], scale=1 / 62)
    loss.backward()
    assert loss.item() == pytest.approx(6.5942335, rel=1e-5)
    gradient = model.get_parameter("blocks.0.qkv.weight").grad
    assert gradient is not None
    assert gradient.norm().item() == pytest.approx(0.27019563, rel=1e-4)
    model.zero_grad(set_to_none=True)
    ids = torch.arange(301)[None] ** 2 % 512  # several blocks of queries
    loss = model.scaled_loss(ids[:, :-1], ids[:, 1:], scale=1 / 300)
    loss.backward()
    assert loss.item() == pytest.approx(6.3287978, rel=1e-5)
    gradient = model.get_parameter("blocks.0.qkv.weight").grad
    assert gradient is not None
    assert gradient.norm().item() == pytest.approx(0.13114469, rel=1e-4)


@recorded("LLAMA", version=1)
@pytest.mark.parametrize(
    ("attention", "is_tied", "logits", "loss", "norm"),
    [
        ("plain", False, [0.142984346, -0.808494925, 0.667886734, 0.418141484], 6.77844763, 0.390349627),
        ("qkv_biases", True, [-0.0778974965, -1.70036829, -0.745286107, -0.691573918], 6.68507051, 0.351515234),
        ("qk_norms", False, [1.0972172, -0.611123979, 0.199017152, 0.124651939], 6.79575396, 0.557996154),
    ],
)
def test_llama(attention: str, is_tied: bool, logits: list[float], loss: float, norm: float) -> None:
    """Initial weights, logits, loss and the gradient of the loss, with a rotation scaled for a longer context."""
    scaling = RotaryScaling(factor=8, low_frequency_factor=1, high_frequency_factor=4, original_seq_len=64)
    shape = llama("nano", vocab_size=512, max_seq_len=512)
    model = initialised(replace(shape, attention=attention, is_tied=is_tied, rotary_scaling=scaling), seed=0)
    drawn = model.get_parameter("blocks.1.mlp_out.weight")[3, :3]
    assert drawn.tolist() == pytest.approx([-0.00876458641, 0.0244999696, -0.025253579], rel=1e-5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # so that attention and biases affect the loss
            if name.endswith("bias"):
                parameter.add_(0.1)
            elif "norm" not in name:
                parameter.mul_(5)
    ids = torch.arange(301)[None] ** 2 % 512
    assert model(ids)[0, 300, :4].tolist() == pytest.approx(logits, rel=1e-4)
    total = model.scaled_loss(ids[:, :-1], ids[:, 1:], scale=1 / 300)
    total.backward()
    assert total.item() == pytest.approx(loss, rel=1e-5)
    gradient = model.get_parameter("blocks.0.key.weight").grad
    assert gradient is not None
    assert gradient.norm().item() == pytest.approx(norm, rel=1e-4)


# -- order ------------------------------------------------------------------------------------------------------------


def numbered_split(num_documents: int, length: int, *, prompt: int | None = None) -> TokenizedSplit:
    """Return documents of different lengths, whose tokens identify document and position."""
    lengths = length + np.arange(num_documents) * 7 % 13
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = (np.arange(offsets[-1]) * 31 % 509).astype(np.uint16)
    return TokenizedSplit([tokens], [offsets], None if prompt is None else [np.full(num_documents, prompt)])


@recorded("ORDER", version=1)
def test_order() -> None:
    """Permutations, the slots of a curriculum with three mixtures, and batches of mixtures and of a task."""
    assert permute(np.arange(10), 10, 5).tolist() == [4, 7, 5, 2, 1, 9, 6, 3, 8, 0]
    # First 8 bytes of sha256("blocks/0/x/0"), little-endian.
    assert derive_key("blocks", 0, "x", 0) == 13844273846750010590

    branch = code_branch(trunk(20), 5, weight=0.3)
    both = phase(Mixture.blend(GENERAL, {CODE: 0.25, MATH: 0.15}), 10, schedule=None, name="both")
    whole = branch.then(both).then(sft(PYCODE, 40))
    slots, first = slots_at(whole, 29)
    assert first == 29 * 8
    draws = enumerate(slots.draws(0, slots.num_slots))
    drawn = [(slot, draw.corpus.name, draw.position) for slot, draw in draws if draw.corpus != GENERAL]
    assert drawn[:3] == [(41, "code", 0), (44, "code", 1), (48, "code", 2)]
    assert drawn[-3:] == [(233, "code", 54), (236, "math", 11), (238, "code", 55)]
    assert digest(repr(drawn).encode()) == "59a9c6ca34be81d8"

    splits = {identify(corpus): numbered_split(40, 200) for corpus in (GENERAL, CODE, MATH)}
    batches = Batches(whole, splits | {identify(PYCODE): numbered_split(90, 40, prompt=9)})
    assert [digest(batches(step).input_ids, batches(step).targets) for step in (0, 12, 29, 30, 69)] == [
        *("5877c2ca79fc11fa", "35b23efb4f3453a5", "985132b19af46a4d"),  # the three mixtures
        *("16e233e54316b24e", "6bb1ba6b9ed91fb5"),  # the task: its first batch, and one of its second epoch
    ]


@recorded("PACKING", version=1)
@pytest.mark.parametrize(
    ("packing", "streams", "expected"),
    [("stream", 2, "74b05b110809439b"), ("best_fit", 1, "0452a98904cad75b"), ("rows", 1, "fa48c31b46dcb55d")],
)
def test_packing(packing: str, streams: int, expected: str) -> None:
    """Items in the order of reading, their places and the rows, over two epochs in both orders."""
    parts = (TaskPart(task=PYCODE), TaskPart(task=WORDS, repeats=2))
    lengths = [np.arange(300) * 7 % 41 + 2, np.arange(130) * 5 % 23 + 3]
    arrays = []
    for order in ("shuffled", "sequential"):
        data = TaskMixture(parts=parts, order=order, packing=packing, streams=streams, num_epochs=2)
        packed = pack(Packing(mixture=data, tokenizer=TOKENIZER, seq_len=32, num_sequences=4, seed=7), lengths)
        arrays += [packed.part, packed.item, packed.starts, packed.rows]
    assert digest(*arrays) == expected


@recorded("PREPARATION", version=1)
def test_preparation() -> None:
    """What every step keeps of texts that repeat, leak and break rules, as the documents after it."""
    draw = random.Random(4)
    items = [" ".join(f"i{draw.randrange(90)}" for _ in range(20)) for _ in range(3)]
    stops = ["the", "of", "and", "with", "house", "river", "carried", "mountain."]

    def lines(number: int) -> str:
        return "\n".join(" ".join(draw.choices(stops, k=9)) + draw.choice([".", ".", "..."]) for _ in range(number))

    texts = [lines(draw.randrange(3, 12)) for _ in range(40)]
    texts += [texts[number] + draw.choice(["", " ", " and more."]) for number in range(0, 40, 5)]
    texts += [f"{lines(7)}\n{item}" for item in items]
    documents = [Document(text, {"topic": str(number % 2)}) for number, text in enumerate(texts)]
    steps: dict[str, tuple[Step, ...]] = {
        "exact": (ExactDuplicates(),),
        "near": (NearDuplicates(ngram=4, jaccard=Fraction("0.7")),),
        "rules": (Heuristics(rules=("gopher quality", "gopher repetition", "c4 pages")),),
        "leaks": (Decontaminate(against=(PYCODE,)),),
        "pieces": (
            Select(field="topic", values=("1",)),
            Sample(share=Fraction(1, 2)),
            Chunk(max_bytes=90),
            Splice(min_bytes=200),
        ),
    }
    found = {}
    for name, of in steps.items():
        kept, _ = run_steps(documents, of, held_out=lambda: texts[:2], items_of=lambda data: items)
        found[name] = hashlib.sha256("\0".join(document.text for document in kept).encode()).hexdigest()[:16]
    assert found == {
        "exact": "e7792119dd9f3d29",
        "near": "f8e0d492a20521ec",
        "rules": "4a5db812379d4071",
        "leaks": "6b917f47f7f4a523",
        "pieces": "12b87cc8ea129e33",
    }


# -- tokenizer and counts ---------------------------------------------------------------------------------------------


def written(folder: Path) -> tuple[Tokenizer, Corpus, Task]:
    """Write text with non-ASCII characters, for merges that do not occur in English."""
    draw = random.Random(20)
    syllables = ("na", "ïve", "tō", "kyo", " 12", "def ", "\n\n", "été", "…", " the", "ing", "😀", "\t")

    def words(number: int) -> str:
        return "".join(draw.choices(syllables, k=number))

    def rows(number: int) -> Iterable[dict[str, str]]:
        return [{"text": f" {words(60)} "} for _ in range(number)]

    def pairs(number: int) -> Iterable[dict[str, str]]:
        return [{"inputs": words(9), "targets": words(12) + "<|endoftext|>"} for _ in range(number)]

    for split, number in (("train", 60), ("validation", 5), ("test", 5)):
        write_split(folder / "general", split, rows(number))
        write_split(folder / "sft" / "task", split, pairs(number))
    corpus = Corpus(name="general", source=resolve_source(str(folder), name="general", folder="general", is_task=False))
    task = Task(name="task", source=resolve_source(str(folder), name="task", folder="sft/task", is_task=True))
    return Tokenizer(corpus=corpus, vocab_size=300, max_bytes=6_000), corpus, task


@recorded("TOKENIZER", version=2)
def test_tokenizer(tmp_path: Path) -> None:
    """The learned merges, and the token ids, boundaries and prompts of a corpus and a task."""
    tokenizer, corpus, task = written(tmp_path / "text")
    tokenizer_folder = tmp_path / "tokenizer"
    tokenizer_folder.mkdir()
    make_tokenizer(tokenizer, tokenizer_folder)
    assert load_tokenizer(tokenizer_folder).encode("the naïve été in Tōkyō 😀").ids == [
        *(84, 272, 284, 260, 221, 280, 221, 268, 221, 52, 274, 270, 274, 221, 267)
    ]
    digests = {}
    for data in (corpus, task):
        folder = tmp_path / data.name
        folder.mkdir()
        make_tokens(TokenizedData(data=data, tokenizer=tokenizer), tokenizer_folder, folder)
        for name in ("train", "dev"):
            split = read_split(folder, name)
            prompts = [] if split.prompt_lengths is None else [split.prompt_lengths.astype("<i8")]
            digests[f"{data.name} {name}"] = digest(split.tokens[:].astype("<u2"), split.offsets.astype("<i8"), *prompts)
    assert digests == {
        "general train": "29dac1fc694d4a7e",
        "general dev": "e94fe7947a35c437",
        "task train": "2fcd2b4bd02d0ab7",
        "task dev": "d8367f26a064ed78",
    }


@recorded("COUNTS", version=1)
def test_counts(tmp_path: Path) -> None:
    """The sampled documents, where they are truncated, and the half that each is counted in."""
    split = numbered_split(40, 30)
    split.tokens[:].astype("<u2").tofile(tmp_path / "train-00000.tokens")
    split.offsets.astype("<i8").tofile(tmp_path / "train-00000.offsets")
    shard = {"num_documents": 40, "num_tokens": len(split.tokens), "text_bytes": 1, "sha256": {}}
    index = {"shard_bytes": 1, "shards": [shard], "is_complete": True}
    (tmp_path / "train.shards.json").write_text(json.dumps(index))
    recipe = TokenCounts(data=GENERAL, tokenizer=TOKENIZER, num_documents=11, tokens_per_document=20, seed=3)
    metrics = make_counts(recipe, tmp_path, tmp_path)
    assert (metrics["sampled_documents"], metrics["sampled_tokens"]) == (11, 220)
    counts = load_file(tmp_path / "counts.safetensors")["counts"]
    assert np.flatnonzero(counts[0])[:8].tolist() == [17, 20, 22, 25, 27, 30, 48, 51]
    assert digest(counts.astype("<i8")) == "42ac0bb7af41d50a"


@recorded("RENDERING", version=1)
def test_rendering(tmp_path: Path) -> None:
    """The pieces of a conversation with a system message and a call of the tool, its token ids and which have loss."""
    called = [{"type": "python", "text": "3+4"}, {"type": "python_output", "text": "7"}, {"type": "text", "text": "7 é"}]
    messages = [
        {"role": "system", "content": "Short."},
        {"role": "user", "content": "3+4 <|user_end|>?"},
        {"role": "assistant", "content": called},
        {"role": "user", "content": ""},
        {"role": "assistant", "content": "naïve"},
    ]
    pieces = rendered(as_turns(messages, "row"))
    assert digest(repr([tuple(piece) for piece in pieces]).encode()) == "11481d27ad282e9e"
    tokenizer = train_tokenizer(["3+4 naïve Short. 7 é"] * 9, vocab_size=275, special_tokens=CONVERSATION_TOKENS)
    write_shards(tokenizer, [pieces], tmp_path, "train")
    split = read_split(tmp_path, "train")
    assert split.prompt_lengths is not None
    assert digest(split.tokens[:].astype("<u2"), split.targets_of(0), split.prompt_lengths) == "e496ef21165f5cf1"


@recorded("GENERATION", version=1)
def test_generation() -> None:
    """Greedy tokens, and samples of two items keyed by seed, item, sample and position."""
    model = initialised(pythia("nano", vocab_size=512, max_seq_len=64), seed=0)
    with torch.no_grad():
        model.head.weight.mul_(30)  # so that rounding decides nothing
    ends = frozenset({0})
    greedy = generate(model, [[5, 6, 7], [8]], decoding=Decoding(max_new_tokens=8), ends=ends)
    decoding = Decoding(max_new_tokens=6, temperature=8.0, top_k=40, seed=3)
    drawn = generate(model, [[5, 6, 7], [8]], decoding=decoding, ends=ends, num_samples=2)
    assert [row.tokens for row in greedy] == [
        [322, 26, 399, 459, 135, 351, 403, 46],
        [15, 354, 254, 509, 119, 403, 486, 26],
    ]
    assert [row.tokens for row in drawn] == [
        [322, 190, 216, 207, 254, 453],
        [320, 363, 416, 267, 86, 424],
        [303, 243, 271, 129, 499, 397],
        [234, 145, 7, 453, 353, 104],
    ]


@recorded("ROLLOUTS", version=1)
def test_rollouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompts of two steps, answers, and the advantages if texts of odd length are right."""
    monkeypatch.setattr("midstudy.execute.rollouts.is_right", lambda answer, reference, score: len(answer) % 2)
    run = TrainingRun.begin(start(), precision="fp32")
    with torch.no_grad():
        run.model.head.weight.mul_(30)  # so that rounding decides nothing
    source = Source(kind="files", part="", revision="r1", fields=(("messages", "messages"),))
    data = Rollouts(
        prompts=Task(name="t", source=source), score="exact_text", num_samples=3, max_new_tokens=4, tool=False, temperature=8
    )
    fields: dict[str, Any] = {"optimizer_state": "reset", "data_positions": "reset", "num_sequences": 6, "seed": 4}
    rl = phase(data, 9, loss="policy_gradient", **fields)
    marks = train_tokenizer(["a"], vocab_size=265, special_tokens=CONVERSATION_TOKENS)
    tokens = (np.arange(60) * 31 % 499 + 9).astype(np.uint16)
    tokens[3::10] = 3  # <|assistant_start|>
    split = TokenizedSplit([tokens], [np.arange(0, 61, 10)], None)
    batches = RolloutBatches(Stretch(phase=rl, start_step=0, stop_step=9), split, marks, run)
    named = [batches.text_at(step).rpartition("items ")[2] for step in (0, 1, 3)]
    assert named == ["2, 4", "3, 5", "1, 5"]
    batch = batches(0)
    assert batch.input_ids[:, :4].tolist() == 3 * [[251, 282, 313, 3]] + 3 * [[130, 161, 192, 3]]
    assert batch.targets[:, 3:7].tolist() == [
        [351, 403, 378, 213],
        [3, 2, 137, 19],
        [3, 495, 227, 80],
        [26, 354, 252, 391],
        [88, 208, 353, 104],
        [415, 333, 403, 426],
    ]
    assert batch.weights is not None
    assert batch.weights[:, 0].tolist() == pytest.approx([2 / 3, -1 / 3, -1 / 3, -1 / 3, 2 / 3, -1 / 3])


# -- training and evaluation ------------------------------------------------------------------------------------------


@recorded("TRAINING", version=3)
@pytest.mark.parametrize(
    ("precision", "tolerance", "losses", "norms", "weights"),
    [
        (
            *("fp32", 1e-4),
            [6.372046, 4.111597, 3.184862, 3.042299, 2.976346, 2.901963],
            [2.342644, 0.988130, 0.804197, 1.056864, 1.178783, 0.696533],
            [0.00624471, 0.02515197, -0.01860533, -0.04034145],
        ),
        (
            *("bf16_mixed", 3e-3),
            [6.372159, 4.111032, 3.185373, 3.042576, 2.976747, 2.902909],
            [2.341489, 0.988016, 0.804012, 1.056126, 1.179019, 0.696332],
            [0.00650024, 0.02539062, -0.01855469, -0.04101562],
        ),
        (
            *("bf16_true", 3e-3),
            [6.372159, 4.111211, 3.178449, 3.038415, 2.979489, 2.908135],
            [2.341501, 0.988279, 0.808906, 1.062430, 1.181880, 0.696063],
            [0.00643921, 0.02526855, -0.01794434, -0.04077148],
        ),
    ],
)
def test_training(precision: str, tolerance: float, losses: list[float], norms: list[float], weights: list[float]) -> None:
    """Losses, gradient norms and weights of a run with every kind of phase boundary, including continued moments."""
    run = begin(precision)
    metrics = train(run, curriculum(precision), 24)
    rows = [metrics[step] for step in (0, 5, 11, 12, 18, 23)]
    assert [row["loss_nats"] for row in rows] == pytest.approx(losses, rel=tolerance)
    assert [row["grad_norm"] for row in rows] == pytest.approx(norms, rel=20 * tolerance)
    final_weights = run.model.get_parameter("blocks.1.mlp_in.weight")[5, :4].float()
    assert final_weights.tolist() == pytest.approx(weights, rel=20 * tolerance, abs=tolerance)


@recorded("MUON", version=1)
@pytest.mark.parametrize(
    ("precision", "tolerance", "losses", "norms", "weights"),
    [
        (
            *("fp32", 1e-4),
            [6.372046, 4.157587, 3.057266, 2.961341, 2.904625, 2.890747],
            [2.342644, 1.135895, 0.632009, 0.844044, 0.946363, 0.553271],
            [0.05287248, -0.01693194, 0.02585010, -0.05967867, 0.07038404, -0.13389729, -0.02353615, 0.07554451],
        ),
        (
            *("bf16_mixed", 3e-3),
            [6.372159, 4.158123, 3.057173, 2.961769, 2.904900, 2.890588],
            [2.341490, 1.135446, 0.632241, 0.844641, 0.946630, 0.552910],
            [0.05249023, -0.01660156, 0.02575684, -0.05981445, 0.07031250, -0.13378906, -0.02368164, 0.07519531],
        ),
        (
            *("bf16_true", 3e-3),
            [6.372159, 4.168271, 3.066228, 2.973264, 2.909470, 2.892259],
            [2.341514, 1.134782, 0.621099, 0.829163, 0.924199, 0.538013],
            [0.05249023, -0.01599121, 0.02587891, -0.05981445, 0.07128906, -0.13281250, -0.02355957, 0.07568359],
        ),
    ],
)
def test_muon(precision: str, tolerance: float, losses: list[float], norms: list[float], weights: list[float]) -> None:
    """The run of `test_training` with nanochat's groups: matrices by Muon, with continued and with new momentum."""
    run = begin(precision)
    metrics = train(run, curriculum(precision, optimizer=with_muon()), 24)
    rows = [metrics[step] for step in (0, 5, 11, 12, 18, 23)]
    assert [row["loss_nats"] for row in rows] == pytest.approx(losses, rel=tolerance)
    assert [row["grad_norm"] for row in rows] == pytest.approx(norms, rel=20 * tolerance)
    names = ("mlp_in", "qkv")
    final_weights = torch.cat([run.model.get_parameter(f"blocks.1.{name}.weight")[5, :4].float() for name in names])
    assert final_weights.tolist() == pytest.approx(weights, rel=20 * tolerance, abs=tolerance)


@recorded("EVALUATION", version=1)
def test_evaluation(tmp_path: Path) -> None:
    """The loss on blocks of a corpus, on whole items, and on targets alone: number of tokens and mean."""
    begin().save(tmp_path / "checkpoint", with_optimizer=False)
    results = []
    for data, loss, prompt in ((GENERAL, "all_tokens", None), (PYCODE, "all_tokens", 9), (PYCODE, "target_tokens", 9)):
        split = numbered_split(50, 30, prompt=prompt)
        evaluation = Evaluation(data=data, split="test", loss=loss, seq_len=36, max_sequences=33)
        metrics = evaluate_state(
            evaluation, checkpoint=tmp_path / "checkpoint", split=split, tokenizer=pytest.fail, folder=tmp_path
        )
        results.append((metrics["target_tokens"], metrics["loss_nats"]))
    assert [number for number, _ in results] == [1188, 1110, 846]
    assert [nats for _, nats in results] == pytest.approx([6.4431490, 6.4307110, 6.4304743], rel=1e-5)


@recorded("CHOICES", version=1)
def test_choices(tmp_path: Path) -> None:
    """The scores of three questions by letters and by whole replies, of different numbers of choices."""
    tokenizer = train_tokenizer(["Which is it? A day, B year. " * 9], vocab_size=280, special_tokens=CONVERSATION_TOKENS)
    (tmp_path / "tokens").mkdir()
    documents = []
    for question, choices in (
        ("Which?", ["A", "B"]),
        ("It is a day. Which?", ["C", "D", "E"]),
        ("", ["F", "é day", "year"]),
    ):
        said = [{"role": "user", "content": question}, {"role": "assistant", "content": choices[1]}]
        row = {"messages": said, "choices": choices}
        documents.append(document_of_row(with_fields(row, (("messages", "messages"),), "row")))
    begin().save(tmp_path / "checkpoint", with_optimizer=False)
    task = replace(PYCODE, source=replace(PYCODE.source, fields=(("messages", "messages"),)))
    scores = []
    for by, number in (("letters", 2), ("cloze", 3)):
        write_shards(tokenizer, documents[:number], tmp_path / "tokens", "test")
        metrics = evaluate_state(
            Choices(data=task, split="test", by=by, seq_len=40, max_sequences=9),
            checkpoint=tmp_path / "checkpoint",
            split=read_split(tmp_path / "tokens", "test"),
            tokenizer=lambda: tokenizer,
            folder=tmp_path,
        )
        assert metrics["num_questions"] == number
        for line in (tmp_path / "choices.jsonl").read_text("utf-8").splitlines():
            scores += json.loads(line)["scores"]
    letters = [-0.57046753, -0.09764277, 0.73287940, -0.00339699, 0.31912810]
    replies = [-12.62002993, -13.66784811, -12.05712605, -12.81472445, -11.97550488, -12.67621660, -4.19323357, -3.24959970]
    assert scores == pytest.approx([*letters, *replies], rel=1e-4, abs=1e-5)


@recorded("NOISE_SCALE", version=1)
def test_noise_scale(tmp_path: Path) -> None:
    """tr(Σ) and |G|² of three batches of eight blocks, cut into batches of two."""
    begin().save(tmp_path / "checkpoint", with_optimizer=False)
    metrics = evaluate_state(
        NoiseScale(data=GENERAL, split="test", seq_len=20, num_batches=3, small=2, large=8, seed=2),
        checkpoint=tmp_path / "checkpoint",
        split=numbered_split(50, 30),
        tokenizer=pytest.fail,
        folder=tmp_path,
    )
    found = [metrics["gradient_noise_trace"], metrics["gradient_squared_norm"]]
    assert found == pytest.approx([16.3328195, 0.7560572], rel=1e-4)


@recorded("REPRESENTATION", version=1)
def test_representation(tmp_path: Path) -> None:
    """CKA over tokens and over sequences, of two seeds, on items of a task: summary, number of examples and distortion."""
    for seed in (0, 1):
        TrainingRun.begin(start(seed), precision="fp32").save(tmp_path / str(seed), with_optimizer=False)
    results = []
    for examples in ("tokens", "sequences"):
        evaluation = RepresentationSimilarity(
            data=PYCODE, split="test", seq_len=36, max_sequences=33, examples=examples, other="0" * 16
        )
        metrics = evaluate_state(
            evaluation,
            checkpoint=tmp_path / "1",
            other_checkpoint=tmp_path / "0",
            split=numbered_split(50, 30, prompt=9),
            tokenizer=pytest.fail,
            folder=tmp_path,
        )
        results.append([metrics[name] for name in ("num_examples", "mean_diagonal_cka", "last_layer_cka")])
    assert metrics["layer_distortion"] == pytest.approx(14.2184844, rel=1e-6)
    by_token, by_sequence = [1110, 0.08460595, 0.06234343], [33, 0.62480226, 0.47343333]
    assert results == [pytest.approx(by_token, rel=1e-5), pytest.approx(by_sequence, rel=1e-5)]


@recorded("DECISION", version=1)
def test_decision() -> None:
    """The lowest finite loss wins, and the first one of equal losses; values that are not finite never win."""
    tried = {rate: trunk(1, schedule=Constant(lr=rate)).state() for rate in (3e-4, 1e-3, 3e-3)}
    dev = Evaluation(data=PYCODE, split="dev", loss="all_tokens", seq_len=36, max_sequences=33)
    choice = Choice.between("lr", tried, evaluation=dev)
    measured = [(3.0, 2.0, 1.0), (2.0, 1.0, 1.0), (math.nan, 2.0, 2.0), (-math.inf, math.inf, 9.0), (1.0, 1.0, 1.0)]
    assert [choice.best(losses) for losses in measured] == [2, 1, 1, 2, 0]


@recorded("AVERAGING", version=1)
def test_averaging(tmp_path: Path) -> None:
    """The bf16 mean of the initial weights of three seeds equals numpy's fp64 mean, rounded once, bit for bit."""
    folders, drawn = [], []
    for seed in range(3):
        run = TrainingRun.begin(start(seed), precision="bf16_true")
        run.save(tmp_path / str(seed), with_optimizer=False)
        folders.append(tmp_path / str(seed))
        drawn.append(run.model.get_parameter("blocks.1.mlp_out.weight").detach().double().numpy())
    mean = mean_weights(folders)["blocks.1.mlp_out.weight"]
    assert mean.equal(torch.from_numpy(np.mean(drawn, axis=0)).bfloat16())
    assert mean[3, :3].tolist() == [0.02734375, 0.0595703125, -0.023681640625]
