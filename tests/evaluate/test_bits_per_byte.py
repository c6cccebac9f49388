"""Bits per byte and results per item, compared with an independent computation on real text."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tokenizers
import torch
from builders.releases import write_tokenizer
from builders.small_recipes import GENERAL, PYCODE
from builders.training_runs import begin

from midstudy.data.tokenizer import load_tokenizer, train_tokenizer
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.items import ITEMS_FILE
from midstudy.execute.evaluation import evaluate_state
from midstudy.recipe import Evaluation, RecipeError
from midstudy.recipe.canonical import expanded, identify
from midstudy.recipe.decode import decode
from midstudy.recipe.measure import StateEvaluation, require_metric

PAIRS = [
    ("Wie heißt der Bär? ", "日本語 🙂"),
    ("def f(x):\n", "    return x  # naïve"),
    ("a ", "b"),
    ("One and one is ", "two <|endoftext|> or more"),
    ("A question that is longer than what fits. " * 3, "never seen"),
    ("e\u0301 ", "cafés and cafés and cafés and cafés and cafés and cafés"),
]
SEQ_LEN = 48


def tokenizer_of(name: str, folder: Path) -> tokenizers.Tokenizer:
    if name == "trained":
        return train_tokenizer(["".join(pair) for pair in PAIRS[:3]] * 20, vocab_size=280)
    write_tokenizer(folder)
    return load_tokenizer(folder)


def encoded(tokenizer: tokenizers.Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=False).ids


def split_of(tokenizer: tokenizers.Tokenizer, *, is_task: bool) -> TokenizedSplit:
    prompts = [encoded(tokenizer, prompt) for prompt, _ in PAIRS]
    documents = [[*ids, *encoded(tokenizer, target), 0] for ids, (_, target) in zip(prompts, PAIRS, strict=True)]
    return TokenizedSplit(
        tokens=[np.concatenate(documents).astype(np.uint16)],
        offsets=[np.cumsum([0, *map(len, documents)])],
        prompt_lengths=[np.array([len(ids) for ids in prompts])] if is_task else None,
    )


def evaluation(**changes: Any) -> Evaluation:
    fields: dict[str, Any] = {"data": PYCODE, "split": "test", "loss": "target_tokens", "seq_len": SEQ_LEN}
    return Evaluation(**({**fields, "max_sequences": 40, "metrics": ("bits_per_byte",), "items": True} | changes))


def spelled(tokenizer: tokenizers.Tokenizer, number: int) -> bytes | None:
    """Return the bytes of a token by the table of GPT-2's `bytes_to_unicode`; `None` for a special token."""
    added = {token["id"]: token for token in json.loads(tokenizer.to_str())["added_tokens"]}
    if number in added:
        return None if added[number]["special"] else added[number]["content"].encode()
    letters, spare = {}, 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or 174 <= byte <= 255:
            letters[chr(byte)] = byte
        else:
            letters[chr(spare)], spare = byte, spare + 1
    spelling = tokenizer.id_to_token(number)
    assert spelling is not None
    return bytes(letters[letter] for letter in spelling)


def by_hand(tokenizer: tokenizers.Tokenizer, ids: list[int], first_target: int) -> tuple[float, int, float, int]:
    """Return, for one sequence in fp64: nats and number of all targets, and nats and bytes of those that are text."""
    with torch.no_grad():
        logits = begin().model(torch.tensor([ids[:-1]]))[0].double()
    nats = -torch.log_softmax(logits, dim=-1)
    whole, text, num_bytes = 0.0, 0.0, 0
    for position in range(first_target, len(ids)):
        token_nats = float(nats[position - 1, ids[position]])
        whole += token_nats
        if (content := spelled(tokenizer, ids[position])) is not None:
            text, num_bytes = text + token_nats, num_bytes + len(content)
    return whole, len(ids) - first_target, text, num_bytes


def sequences(wanted: Evaluation, split: TokenizedSplit) -> dict[int, tuple[list[int], int]]:
    """Map each item to its token ids and the position of its first target."""
    if wanted.data == GENERAL:
        blocks = split.tokens[: split.num_blocks(SEQ_LEN) * (SEQ_LEN + 1)].reshape(-1, SEQ_LEN + 1).tolist()
        return {number: (block, 1) for number, block in enumerate(blocks)}
    items = {}
    assert split.prompt_lengths is not None
    for number in range(split.num_documents):
        ids = split.document(number)[: SEQ_LEN + 1].tolist()
        first = int(split.prompt_lengths[number]) if wanted.loss == "target_tokens" else 1
        if first < len(ids):
            items[number] = ids, first
    return items


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("state") / "checkpoint"
    begin().save(folder, with_optimizer=False)
    return folder


@pytest.mark.parametrize("name", ["trained", "released"])
@pytest.mark.parametrize(
    ("data", "loss"),
    [(PYCODE, "target_tokens"), (PYCODE, "all_tokens"), (GENERAL, "all_tokens")],
    ids=["targets of a task", "whole items", "blocks of a corpus"],
)
def test_bits_per_byte_and_items_are_those_computed_by_hand(
    data: Any, loss: str, name: str, checkpoint: Path, tmp_path: Path
) -> None:
    tokenizer = tokenizer_of(name, tmp_path)
    split, wanted = split_of(tokenizer, is_task=data == PYCODE), evaluation(data=data, loss=loss)
    metrics = evaluate_state(wanted, checkpoint=checkpoint, split=split, tokenizer=lambda: tokenizer, folder=tmp_path)
    items = pd.read_parquet(tmp_path / ITEMS_FILE)
    expected = {number: by_hand(tokenizer, *sequence) for number, sequence in sequences(wanted, split).items()}
    assert (4 in expected) == (data == GENERAL or loss == "all_tokens")  # the prompt of item 4 fills the context
    assert items["item"].tolist() == sorted(expected)
    for row, sums in zip(items.itertuples(), expected.values(), strict=True):
        assert (row.target_tokens, row.bytes) == (sums[1], sums[3])
        assert (row.nats, row.text_nats) == pytest.approx((sums[0], sums[2]), rel=1e-5)
    text_nats, num_bytes = (sum(sums[index] for sums in expected.values()) for index in (2, 3))
    assert metrics["bits_per_byte"] == pytest.approx(text_nats / math.log(2) / num_bytes, rel=1e-5)
    assert metrics["target_bytes"] == num_bytes
    # End-of-text tokens are targets of the loss, but have no bytes.
    assert items["nats"].sum() > items["text_nats"].sum() * 1.001


def test_sums_over_items_are_the_totals(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("trained", tmp_path)
    split = split_of(tokenizer, is_task=True)
    metrics = evaluate_state(evaluation(), checkpoint=checkpoint, split=split, tokenizer=lambda: tokenizer, folder=tmp_path)
    items = pd.read_parquet(tmp_path / ITEMS_FILE)
    assert items["target_tokens"].sum() == metrics["target_tokens"]
    assert items["bytes"].sum() == metrics["target_bytes"]
    assert items["nats"].sum() == pytest.approx(metrics["loss_nats"] * metrics["target_tokens"], rel=1e-12)
    bits = items["text_nats"].sum() / math.log(2)
    assert bits == pytest.approx(metrics["bits_per_byte"] * metrics["target_bytes"], rel=1e-12)


def test_the_bytes_of_whole_targets_are_those_of_their_texts(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("trained", tmp_path)
    split = split_of(tokenizer, is_task=True)
    evaluate_state(evaluation(), checkpoint=checkpoint, split=split, tokenizer=lambda: tokenizer, folder=tmp_path)
    items = pd.read_parquet(tmp_path / ITEMS_FILE).set_index("item")
    for number in (0, 1, 2, 3):  # none is truncated at 48 tokens
        assert items["bytes"][number] == len(PAIRS[number][1].replace("<|endoftext|>", "").encode())


def test_only_requested_metrics_and_items_are_computed(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("trained", tmp_path)
    split = split_of(tokenizer, is_task=True)
    facts: dict[str, Any] = {"checkpoint": checkpoint, "folder": tmp_path}
    old = evaluate_state(evaluation(metrics=(), items=False), split=split, tokenizer=pytest.fail, **facts)
    assert old.keys() == {"loss_nats", "target_tokens", "left_out"}
    assert not (tmp_path / ITEMS_FILE).exists()
    with_items = evaluate_state(evaluation(metrics=()), split=split, tokenizer=pytest.fail, **facts)
    assert with_items == old
    assert list(pd.read_parquet(tmp_path / ITEMS_FILE)) == ["item", "nats", "target_tokens"]
    new = evaluate_state(evaluation(items=False), split=split, tokenizer=lambda: tokenizer, **facts)
    assert {name: new[name] for name in old} == old
    assert new.keys() - old.keys() == {"bits_per_byte", "target_bytes"}


def test_targets_without_text_are_rejected(checkpoint: Path, tmp_path: Path) -> None:
    tokenizer = tokenizer_of("trained", tmp_path)
    split = TokenizedSplit([np.array([5, 0, 6, 0], np.uint16)], [np.array([0, 2, 4])], [np.array([1, 1])])
    with pytest.raises(ValueError, match="pycode test: expected targets that are text"):
        evaluate_state(evaluation(), checkpoint=checkpoint, split=split, tokenizer=lambda: tokenizer, folder=tmp_path)


def test_evaluations_without_the_new_fields_keep_their_ids() -> None:
    """The ids of version 1, recorded before the fields existed."""
    facts: dict[str, Any] = {"split": "test", "seq_len": 64, "max_sequences": 8}
    task = Evaluation(data=PYCODE, loss="target_tokens", **facts)
    corpus = Evaluation(data=GENERAL, loss="all_tokens", document_mask=True, **facts)
    state_ids = [StateEvaluation(state_id="0123456789abcdef", evaluation=variant).id for variant in (task, corpus)]
    assert [identify(task), identify(corpus)] == ["2bddc2920eef4f54", "302dd65c0cd7d197"]
    assert state_ids == ["7db4dac5aa809a2b", "bb4afc7ddaebbfeb"]
    others = [dataclasses.replace(task, **changes) for changes in ({"items": True}, {"metrics": ("bits_per_byte",)})]
    assert len({identify(variant) for variant in (task, *others)}) == 3


def test_an_evaluation_is_decoded_from_recipes_with_and_without_the_new_fields() -> None:
    new = evaluation()
    assert decode(json.loads(json.dumps(expanded(new)))) == new
    form = expanded(evaluation(metrics=(), items=False))
    assert decode({name: value for name, value in form.items() if name not in ("metrics", "items")}) == evaluation(
        metrics=(), items=False
    )


@pytest.mark.parametrize("metrics", ["bits_per_byte", ("accuracy",), ("bits_per_byte", "bits_per_byte"), ("loss_nats",)])
def test_only_extra_metrics_can_be_requested_each_once(metrics: Any) -> None:
    with pytest.raises(RecipeError, match=r"evaluation.pycode.metrics: expected .*bits_per_byte.*, got "):
        evaluation(metrics=metrics)


def test_a_measure_can_only_name_a_metric_that_the_evaluation_reports() -> None:
    require_metric("measures.loss", evaluation(metrics=()), "loss_nats", "lower")
    require_metric("measures.loss", evaluation(), "bits_per_byte", "lower")
    message = r"measures.loss.metric: expected (one of )?loss_nats, bits_per_byte, got accuracy\.$"
    with pytest.raises(RecipeError, match=message):
        require_metric("measures.loss", evaluation(), "accuracy", "higher")
    with pytest.raises(RecipeError, match=r"expected (one of )?loss_nats, got bits_per_byte\. .*Evaluation\(metrics="):
        require_metric("measures.loss", evaluation(metrics=()), "bits_per_byte", "lower")
    with pytest.raises(RecipeError, match=r"measures.loss.better: expected lower for bits_per_byte, got higher"):
        require_metric("measures.loss", evaluation(), "bits_per_byte", "higher")
