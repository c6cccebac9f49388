"""Generation: greedy and sampled tokens, the tool's protocol, and independence of the batch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from builders.small_models import lively
from scipy import stats

from midstudy.data.tokenizer import train_tokenizer
from midstudy.evaluate import generate as module
from midstudy.evaluate.generate import Decoding, Generated, Tool, calculator_tool, generate, special_ids
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.data import CONVERSATION_TOKENS
from midstudy.recipe.model import pythia

NO_END: frozenset[int] = frozenset()


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    model = lively(replace(pythia("nano", vocab_size=97, max_seq_len=40), num_layers=2))
    with torch.no_grad():
        model.head.weight.mul_(30)  # so that the most likely token is not decided by rounding
    return model


def greedy_without_cache(model: LanguageModel, prompt: list[int], number: int) -> list[int]:
    ids = list(prompt)
    for _ in range(number):
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


def test_greedy_tokens_equal_those_of_a_loop_without_a_cache(model: LanguageModel) -> None:
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 97, size).tolist() for size in (1, 4, 9, 9, 17)]
    rows = generate(model, prompts, decoding=Decoding(max_new_tokens=12), ends=NO_END)
    assert [row.tokens for row in rows] == [greedy_without_cache(model, prompt, 12) for prompt in prompts]


def test_a_text_ends_at_its_end_or_where_the_context_is_full(model: LanguageModel) -> None:
    prompt = [5, 6, 7]
    free = greedy_without_cache(model, prompt, 37)
    end = free[6]
    first = free.index(end)
    ended, full = generate(model, [prompt, [1]], decoding=Decoding(max_new_tokens=99), ends=frozenset({end}))
    assert ended.tokens == free[: first + 1]
    assert ended.is_finished
    [row] = generate(model, [prompt], decoding=Decoding(max_new_tokens=99), ends=NO_END)
    assert len(row.tokens) == 40 - 3 + 1
    assert not row.is_finished
    assert full.item == 1


@pytest.mark.parametrize("prompt", [[], list(range(40))])
def test_a_prompt_that_is_empty_or_fills_the_context_is_an_error(model: LanguageModel, prompt: list[int]) -> None:
    with pytest.raises(ValueError, match="prompt 0: expected 1 to 39 tokens, got"):
        generate(model, [prompt], decoding=Decoding(max_new_tokens=1), ends=NO_END)


def test_samples_follow_the_softmax_of_the_logits(model: LanguageModel) -> None:
    prompt, temperature = [3, 1, 4], 12.0
    with torch.no_grad():
        expected = torch.softmax(model(torch.tensor([prompt]))[0, -1].double() / temperature, -1).numpy()
    decoding = Decoding(max_new_tokens=1, temperature=temperature, seed=1)
    rows = generate(model, [prompt], decoding=decoding, ends=NO_END, num_samples=4_000)
    counts = np.bincount([row.tokens[0] for row in rows], minlength=97)
    kept = expected * 4_000 >= 5
    observed, wanted = np.append(counts[kept], counts[~kept].sum()), np.append(expected[kept], expected[~kept].sum()) * 4_000
    assert stats.chisquare(observed, wanted).pvalue > 0.001
    best = {int(index) for index in np.argsort(-expected)[:5]}
    top = Decoding(max_new_tokens=1, temperature=temperature, top_k=5, seed=1)
    assert {row.tokens[0] for row in generate(model, [prompt], decoding=top, ends=NO_END, num_samples=500)} == best


def test_a_sample_depends_on_its_item_and_number_not_on_its_batch(model: LanguageModel) -> None:
    prompts = [[1, 2, 3], [4, 5], [6]]
    decoding = Decoding(max_new_tokens=8, temperature=5.0, seed=4)
    together = generate(model, prompts, decoding=decoding, ends=NO_END, num_samples=3)
    fewer = generate(model, prompts[:1], decoding=decoding, ends=NO_END, num_samples=2)
    assert [row.tokens for row in fewer] == [row.tokens for row in together[:2]]
    assert len({tuple(row.tokens) for row in together[:3]}) == 3
    other = generate(model, prompts[:1], decoding=Decoding(max_new_tokens=8, temperature=5.0, seed=5), ends=NO_END)
    assert other[0].tokens != together[0].tokens


def test_equal_logits_give_the_lowest_id() -> None:
    logits = np.zeros((1, 5), np.float32)
    assert list(module._chosen(logits, [Generated(0, 0)], Decoding(max_new_tokens=1))) == [0]


# -- the tool ---------------------------------------------------------------------------------------------------------

START, END, OUTPUT_START, OUTPUT_END, LAST = 10, 11, 12, 13, 14


def walked(said: Iterable[int], answers: dict[tuple[int, ...], list[int]]) -> Generated:
    """Return the row after a model has said these tokens; where the tool speaks, what the model would say is lost."""
    tool = Tool(
        start=START,
        end=END,
        output_start=OUTPUT_START,
        output_end=OUTPUT_END,
        answer=lambda call: answers.get(tuple(call)),
    )
    row = Generated(0, 0)
    for token in said:
        row.take(token, ends=frozenset({LAST}), tool=tool)
    return row


@pytest.mark.parametrize(
    ("said", "tokens", "forced", "finished"),
    [
        # A call with an answer: what the model says meanwhile is replaced.
        (
            [1, START, 2, 3, END, 9, 9, 9, 9, 4],
            [1, START, 2, 3, END, OUTPUT_START, 5, 6, OUTPUT_END, 4],
            {5, 6, 7, 8},
            False,
        ),
        # A call without an answer is left as it is.
        ([START, 7, END, 4, LAST], [START, 7, END, 4, LAST], set(), True),
        # An end without a start calls nothing; a second start begins again.
        ([END, START, 8, START, 2, 3, END, 9], [END, START, 8, START, 2, 3, END, OUTPUT_START], {7}, False),
        # Two calls.
        (
            [START, 2, 3, END, 9, 9, 9, 9, START, 1, END, 9, 9, LAST],
            [START, 2, 3, END, OUTPUT_START, 5, 6, OUTPUT_END, START, 1, END, OUTPUT_START, OUTPUT_END, LAST],
            {4, 5, 6, 7, 11, 12},
            True,
        ),
        # The tool's answer does not end the text, even if it holds the token that would.
        ([START, 6, END, 9, 9, 9], [START, 6, END, OUTPUT_START, LAST, OUTPUT_END], {3, 4, 5}, False),
        # An end inside a call ends the text.
        ([START, 2, LAST], [START, 2, LAST], set(), True),
    ],
)
def test_a_scripted_model_walks_every_transition_of_the_tool(
    said: list[int], tokens: list[int], forced: set[int], finished: bool
) -> None:
    row = walked(said, {(2, 3): [5, 6], (1,): [], (6,): [LAST]})
    assert row.tokens == tokens
    assert {place for place, is_forced in enumerate(row.is_forced) if is_forced} == forced
    assert row.is_finished == finished


def test_the_calculator_answers_in_a_batch(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says a script and then the end of its turn; its cache sees the tool's tokens, not its own."""
    tokenizer = train_tokenizer(["12+30=42 'strawberry'.count('r') 3 "], vocab_size=270, special_tokens=CONVERSATION_TOKENS)
    python_start, python_end, output_start, output_end = special_ids(tokenizer)[4:]
    scripts = [
        [python_start, *tokenizer.encode("12+30").ids, python_end],
        [python_start, *tokenizer.encode("'strawberry'.count('r')").ids, python_end],
        [python_start, *tokenizer.encode("import os").ids, python_end],
    ]
    last = special_ids(tokenizer)[3]
    seen: list[np.ndarray] = []

    def scripted(model: Any, ids: torch.Tensor, positions: torch.Tensor, cache: Any, last: Any = None) -> torch.Tensor:
        seen.append(ids.numpy())
        return torch.zeros(len(ids), 300)

    def chosen(logits: Any, rows: list[Generated], decoding: Any) -> Iterable[int]:
        for row in rows:
            script = scripts[row.item]
            yield script[len(row.tokens)] if len(row.tokens) < len(script) else last

    monkeypatch.setattr(module, "cached_logits", scripted)
    monkeypatch.setattr(module, "_chosen", chosen)
    rows = generate(
        model,
        [[1], [1], [1]],
        decoding=Decoding(max_new_tokens=39),
        ends=frozenset({last}),
        tool=calculator_tool(tokenizer),
    )
    said = [tokenizer.decode(row.tokens, skip_special_tokens=False) for row in rows]
    assert said[0] == "<|python_start|>12+30<|python_end|><|output_start|>42<|output_end|><|assistant_end|>"
    assert said[1].endswith("<|output_start|>3<|output_end|><|assistant_end|>")
    assert said[2] == "<|python_start|>import os<|python_end|><|assistant_end|>"
    fed = [int(ids[0, 0]) for ids in seen[1:]][: len(rows[0].tokens) - 1]
    assert fed[: len(scripts[0])] == scripts[0]
    assert output_start in {int(value) for ids in seen for value in ids.ravel()}
    assert output_end in {int(value) for ids in seen for value in ids.ravel()}


def test_a_tokenizer_without_the_marks_has_no_tool() -> None:
    tokenizer = train_tokenizer(["a b c"], vocab_size=258)
    with pytest.raises(ValueError, match="expected the tokens of conversations, got one without"):
        calculator_tool(tokenizer)


@pytest.mark.parametrize("wrong", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_k": 0}])
def test_a_decoding_that_cannot_be_is_an_error(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 new token"):
        Decoding(**{"max_new_tokens": 1} | wrong)
