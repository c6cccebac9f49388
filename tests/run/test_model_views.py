"""`midstudy compare` with a stage's own model and tokenizer: what transformers computes from the exported state."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders.small_study import SYMBOLS, WORDS, make_study, small_study

from midstudy.cli.main import main
from midstudy.data.hash_sample import HashSample
from midstudy.plan.planner import Plan
from midstudy.recipe.stage import stage_id
from midstudy.store.store import Store

transformers = pytest.importorskip("transformers")

CONTEXT = 32


def documents(words: list[str], seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(words, k=rng.randint(2, 30))) for _ in range(70)]


TEXTS = {
    "prose": documents(list(WORDS), 1),
    "more": documents(list(WORDS), 2),
    "code": documents(list(SYMBOLS), 3),
}


@pytest.fixture(scope="module")
def trained(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Plan]:
    store = Store.open(tmp_path_factory.mktemp("models") / "store", create=True)
    return store, make_study(store, small_study(text))


@pytest.fixture
def arguments(trained: tuple[Store, Plan], tmp_path: Path) -> list[str]:
    corpora = []
    for name, texts in TEXTS.items():
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps({"text": one}) + "\n" for one in texts), encoding="utf-8")
        corpora.append(f"{name}={path}")
    return ["compare", *corpora, "--store", str(trained[0].root), "--json"]


def compared(arguments: list[str], capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main([*arguments, *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def sample(texts: list[str]) -> list[str]:
    chosen = HashSample(max_documents=512)
    for one in texts:
        chosen.add(one)
    return list(chosen.documents())


def test_both_views_are_what_transformers_computes_from_the_exported_state(trained, arguments, tmp_path, capsys) -> None:
    store, plan = trained
    state = plan.arms[1].state
    found = compared(arguments, capsys, "--over", f"embedding:{state[:12]}", "--over", f"gradients:{state}")
    embedding, gradients = found["models"]
    assert (embedding["stage"], embedding["label"]) == (state, store.requested(state)["label"])
    assert (embedding["documents_per_side"], gradients["documents_per_side"]) == (35, 32)

    assert main(["export", state, "--to", "hf", "--output", str(tmp_path / "hf"), "--store", str(store.root)]) == 0
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = {name: [tokenizer(one)["input_ids"][:CONTEXT] for one in sample(texts)] for name, texts in TEXTS.items()}
    assert max(len(one) for one in ids["prose"]) == CONTEXT  # some documents are cut

    means = {}
    for name, sequences in ids.items():
        with torch.no_grad():
            hidden = [model(torch.tensor([one]), output_hidden_states=True).hidden_states[-1][0] for one in sequences]
        rows = np.stack([one.double().mean(dim=0).numpy() for one in hidden])
        means[name] = rows[:35].mean(axis=0), rows[35:].mean(axis=0)
    check(embedding, means)

    means = {}
    for name, sequences in ids.items():
        blocks = []
        for first in range(0, 64, 4):
            losses, number = [], 0
            for one in sequences[first : first + 4]:
                whole = torch.tensor([*one, tokenizer.eos_token_id][: CONTEXT + 1])
                logits = model(whole[None, :-1]).logits[0]
                losses.append(torch.nn.functional.cross_entropy(logits, whole[1:], reduction="sum"))
                number += len(whole) - 1
            parts = torch.autograd.grad(torch.stack(losses).sum() / number, list(model.parameters()))
            blocks.append(torch.cat([part.flatten() for part in parts]).double().numpy())
        means[name] = np.mean(blocks[:8], axis=0), np.mean(blocks[8:], axis=0)
    check(gradients, means)


def check(view: dict[str, Any], means: dict[str, tuple[np.ndarray, np.ndarray]]) -> None:
    for pair in view["pairs"]:
        (a1, a2), (b1, b2) = means[pair["left"]], means[pair["right"]]
        value = pair["cosine"]
        assert value["value"] == pytest.approx((cosine(a1, b2) + cosine(a2, b1)) / 2, abs=1e-5)
        assert value["low"] < value["value"] < value["high"]
    for name, halves in means.items():
        assert view["own_halves"][name] == pytest.approx(cosine(*halves), abs=1e-5)
    values = {(pair["left"], pair["right"]): pair["cosine"] for pair in view["pairs"]}
    assert values["prose", "more"]["low"] > values["prose", "code"]["high"]


def test_a_stage_names_its_tokenizer_and_text_shows_the_model(trained, arguments, capsys) -> None:
    store, plan = trained
    state = plan.arms[1].state
    tokenizer = stage_id(plan.arms[1].arm.curriculum.start.tokenizer)
    digests = {
        compared(arguments, capsys, "--over", "tokens", "--tokenizer", one)["tokenizer_sha256"]
        for one in (state, tokenizer, str(store.published_folder(tokenizer)))
    }
    assert len(digests) == 1
    without_json = [one for one in arguments if one != "--json"]
    assert main([*without_json, "--over", f"embedding:{state}", "--over", "bytes:2"]) == 0
    output = capsys.readouterr().out
    assert f"embedding:{state[:8]} ({store.requested(state)['label']}), cosine of means, 35 documents a side" in output
    assert f"bytes:2 and embedding:{state}: Kendall's tau" in output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--over", "embedding:0000"], "--over embedding: expected the id of a finished state .*, got 0000, which is none"),
        (["--over", "gradients:{tokenizer}"], "--over gradients: expected a state, which has a model, got the tokenizer"),
        (["--tokenizer", "{tokens}"], "--tokenizer: expected the id of a finished state or tokenizer .* which is none"),
        (["--over", "embedding:"], "--over: expected .*embedding:STAGE or gradients:STAGE, got embedding:"),
        (["--over", "gradients:{state}", "few={few}"], "compare.few: expected at least 16 documents for gradients, got 9"),
    ],
)
def test_a_stage_that_does_not_fit_is_reported(trained, arguments, tmp_path, capsys, more, message) -> None:
    store, plan = trained
    few = tmp_path / "few.jsonl"
    few.write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS["code"][:9]), encoding="utf-8")
    labels = {store.requested(one)["label"]: one for one in store.stage_ids()}
    places = {
        "tokenizer": stage_id(plan.arms[1].arm.curriculum.start.tokenizer),
        "tokens": labels["tokens general"],
        "state": plan.arms[1].state,
        "few": str(few),
    }
    positional = [one.format(**places) for one in more if one.startswith("few=")]
    options = [one.format(**places) for one in more if not one.startswith("few=")]
    assert main([arguments[0], *positional, *arguments[1:], *options]) == 2
    assert re.search(message, capsys.readouterr().err)
