"""Generate text: greedily or by sampling, in batches, with a tool that answers in between.

A sample's noise is keyed by (seed, item, sample, position), so that no sample depends on the others of its batch except
through rounding. Sampling adds Gumbel noise to logits / temperature and takes the largest (Gumbel, 1954; Maddison et al.,
2014), which draws from their softmax. Greedy decoding takes the largest; of equal ones, the lowest id.

The tool's protocol is that of karpathy/nanochat `engine.py`: when the model ends a call, the tool's answer is put after it,
token by token, instead of what the model would say; a call without an answer is left as it is. A text ends at the end of the
assistant's turn or of the text.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray

from midstudy.data.order import derive_key
from midstudy.evaluate.calculator import calculated
from midstudy.model.cached import KeyValueCache, cached_logits
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.data import CONVERSATION_TOKENS


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How the next token is chosen. `temperature` 0 is greedy; `top_k` keeps the most likely tokens, `None` all."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.temperature < 0 or (self.top_k is not None and self.top_k < 1):
            raise ValueError(
                "expected at least 1 new token, a temperature of at least 0 and a top k of at least 1, got "
                f"{self.max_new_tokens}, {self.temperature:g} and {self.top_k}."
            )


@dataclass(frozen=True, kw_only=True)
class Tool:
    """A tool that the model calls between `start` and `end` and that answers between `output_start` and `output_end`.

    `answer` returns the tokens of the answer to the tokens of a call; `None` if it has none.
    """

    start: int
    end: int
    output_start: int
    output_end: int
    answer: Callable[[list[int]], list[int] | None]


def special_ids(tokenizer: tokenizers.Tokenizer) -> list[int]:
    """Return the ids of `CONVERSATION_TOKENS`, in their order.

    Raises:
        ValueError: the tokenizer lacks one.
    """
    ids = [tokenizer.token_to_id(name) for name in CONVERSATION_TOKENS]
    missing = [name for name, number in zip(CONVERSATION_TOKENS, ids, strict=True) if number is None]
    if missing:
        raise ValueError(f"tokenizer: expected the tokens of conversations, got one without {', '.join(missing)}.")
    return [number for number in ids if number is not None]


def calculator_tool(tokenizer: tokenizers.Tokenizer) -> Tool:
    """Return the calculator as a tool for models of this tokenizer, which has the marks of conversations."""
    *_, start, end, output_start, output_end = special_ids(tokenizer)

    def answer(call: list[int]) -> list[int] | None:
        result = calculated(tokenizer.decode(call))
        return None if result is None else list(tokenizer.encode(result, add_special_tokens=False).ids)

    return Tool(start=start, end=end, output_start=output_start, output_end=output_end, answer=answer)


@dataclass
class Generated:
    """The new tokens of one sample, which of them the tool gave, and whether the text came to its end.

    `num_answered` counts the calls that the tool answered.
    """

    item: int
    sample: int
    tokens: list[int] = field(default_factory=list)
    is_forced: list[bool] = field(default_factory=list)
    is_finished: bool = False
    num_answered: int = 0
    _forced: list[int] = field(default_factory=list)
    _call: list[int] | None = None

    def take(self, chosen: int, *, ends: frozenset[int], tool: Tool | None) -> int:
        """Add the next token, the tool's if it has one to give, else `chosen`; return it."""
        is_forced = bool(self._forced)
        token = self._forced.pop(0) if is_forced else chosen
        self.tokens.append(token)
        self.is_forced.append(is_forced)
        if is_forced:
            return token
        self.is_finished = token in ends
        if tool is not None:
            if token == tool.start:
                self._call = []
            elif token == tool.end and self._call is not None:
                answer = tool.answer(self._call)
                self._forced = [] if answer is None else [tool.output_start, *answer, tool.output_end]
                self.num_answered += answer is not None
                self._call = None
            elif self._call is not None:
                self._call.append(token)
        return token


def generate(
    model: LanguageModel,
    prompts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    ends: frozenset[int],
    num_samples: int = 1,
    tool: Tool | None = None,
    items: Sequence[int] | None = None,
    on_tokens: Callable[[Sequence[Generated]], None] = lambda rows: None,
) -> list[Generated]:
    """Return `num_samples` continuations of every prompt, one batch, in the order of prompts and samples.

    A text that fills the model's context stops there, unfinished.

    Args:
        prompts: token ids, at least one in each, fewer than the context.
        ends: tokens after which a text is finished.
        items: numbers of the prompts, which key their noise; `None` counts from 0.
        on_tokens: called after every step with the rows that are still growing.

    Raises:
        ValueError: a prompt is empty or leaves no room in the context.
    """
    context = model.shape.max_seq_len
    for number, prompt in enumerate(prompts):
        if not 0 < len(prompt) < context:
            raise ValueError(f"prompt {number}: expected 1 to {context - 1} tokens, got {len(prompt)}.")
    device = model.device
    numbers = range(len(prompts)) if items is None else items
    every = [Generated(item, sample) for item in numbers for sample in range(num_samples)]
    repeated = [prompt for prompt in prompts for _ in range(num_samples)]
    lengths = np.array([len(prompt) for prompt in repeated])
    longest = int(lengths.max())
    ids = np.zeros((len(every), longest), np.int64)
    for index, prompt in enumerate(repeated):
        ids[index, : lengths[index]] = prompt
    cache = KeyValueCache(model, num_rows=len(every), length=min(context, longest + decoding.max_new_tokens))
    positions = torch.arange(longest, device=device).expand(len(every), -1)
    ends_of_prompts = torch.from_numpy(lengths - 1).to(device)
    logits = cached_logits(model, torch.from_numpy(ids).to(device), positions, cache, last=ends_of_prompts)
    growing, places = every, lengths.copy()
    for step in range(decoding.max_new_tokens):
        chosen = _chosen(logits.cpu().numpy(), growing, decoding)
        taken = np.array([row.take(int(one), ends=ends, tool=tool) for row, one in zip(growing, chosen, strict=True)])
        on_tokens(growing)
        kept = np.flatnonzero([not row.is_finished and place < context for row, place in zip(growing, places, strict=True)])
        if not len(kept) or step + 1 == decoding.max_new_tokens:
            break
        if len(kept) < len(growing):
            growing, places, taken = [growing[index] for index in kept], places[kept], taken[kept]
            cache.keep(torch.from_numpy(kept).to(device))
        new_ids, new_positions = (torch.from_numpy(array[:, None]).to(device) for array in (taken, places))
        logits = cached_logits(model, new_ids, new_positions, cache)
        places = places + 1
    return every


def _chosen(logits: NDArray[np.float32], rows: Sequence[Generated], decoding: Decoding) -> Iterator[int]:
    for values, row in zip(logits, rows, strict=True):
        if decoding.temperature == 0:
            yield int(values.argmax())
            continue
        allowed = np.arange(len(values))
        if decoding.top_k is not None and decoding.top_k < len(values):
            allowed = np.argsort(-values, kind="stable")[: decoding.top_k]
        key = derive_key("token", decoding.seed, row.item, row.sample, len(row.tokens))
        noise = _gumbel(len(values), key)
        yield int(allowed[np.argmax(values[allowed].astype(np.float64) / decoding.temperature + noise[allowed])])


def _gumbel(size: int, key: int) -> NDArray[np.float64]:
    """Return Gumbel noise, shape (size,), from the bits of Philox, which are the same everywhere."""
    bits = np.random.Philox(key=key).random_raw(size) >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 0.5) * 2.0**-53
    noise: NDArray[np.float64] = -np.log(-np.log(uniform))
    return noise
