"""The batches of reinforcement learning: answers that a run's weights give to prompts, and their advantages.

The batch of a step is a function of the recipe and of the weights at that step, so an interrupted run makes the same one
again. Prompt number n of the phase, counted from 0 over all steps, keys the noise of its answers together with the phase's
seed, the sample and the position; n fixes the step and the item. Which answers are generated together does not depend on the
placement, except that each rank generates those of its own prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray

from midstudy.data.batch import IGNORED, Batch
from midstudy.data.batches import PAD_MULTIPLE
from midstudy.data.order import derive_key
from midstudy.data.prompts import items_at, prompts_with_room
from midstudy.data.tokens import TokenizedSplit
from midstudy.evaluate.answers import Marks, prompts_and_references
from midstudy.evaluate.generate import Decoding, Generated, calculator_tool, generate
from midstudy.evaluate.scores import is_right
from midstudy.model.compiled import StopRequestedError
from midstudy.recipe.canonical import identify
from midstudy.recipe.curriculum import Stretch
from midstudy.recipe.rollouts import Rollouts
from midstudy.train.engine import TrainingRun

ANSWERS_TOGETHER = 256
"""The most answers that are generated in one batch, unless a prompt has more samples. The last bit of a product depends on
the batch, so another value needs another `versions.ROLLOUTS`."""


@dataclass(frozen=True)
class Answer:
    """The prompt and the new tokens of one sample, and which of them the tool gave."""

    prompt: Sequence[int]
    tokens: Sequence[int]
    is_forced: Sequence[bool]


def advantages_of(rewards: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each reward less the mean of its prompt's, shape (num_prompts, num_samples)."""
    return rewards - rewards.mean(axis=1, keepdims=True)


def policy_gradient_batch(answers: Sequence[Answer], advantages: NDArray[np.float64], *, seq_len: int) -> Batch:
    """Return the answers as a batch of right-padded rows of at most `seq_len` inputs, which none exceeds.

    The targets are the tokens that the model chose, weighted by the advantage of their answer. Prompts, the tool's tokens
    and padding have no loss.

    Args:
        advantages: of each answer, shape (len(answers),).
    """
    longest = max(len(answer.prompt) + len(answer.tokens) for answer in answers) - 1
    size = (len(answers), min(seq_len, -(-longest // PAD_MULTIPLE) * PAD_MULTIPLE))
    input_ids, targets = np.zeros(size, np.int64), np.full(size, IGNORED, np.int64)
    for row, answer in enumerate(answers):
        tokens = [*answer.prompt, *answer.tokens]
        input_ids[row, : len(tokens) - 1] = tokens[:-1]
        first = len(answer.prompt) - 1
        targets[row, first : len(tokens) - 1] = np.where(answer.is_forced, IGNORED, answer.tokens)
    weights = np.repeat(advantages.astype(np.float32)[:, None], size[1], axis=1)
    return Batch(input_ids=input_ids, targets=targets, weights=weights, weights_are_advantages=True)


class RolloutBatches:
    """The batches of a placed phase on rollouts; each is made from the weights that `run` has when it is asked for.

    Args:
        split: the tokenised train split of the prompts.
        tokenizer: that of the split.
        should_stop: polled after every token of a single rank. With several ranks, none leaves, since the others wait.

    Raises:
        ValueError: no prompt leaves room for an answer.
    """

    def __init__(
        self,
        placed: Stretch,
        split: TokenizedSplit,
        tokenizer: tokenizers.Tokenizer,
        run: TrainingRun,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        phase, rollouts = placed.phase, placed.phase.data
        assert isinstance(rollouts, Rollouts)
        self._placed, self._rollouts, self._split, self._run = placed, rollouts, split, run
        self._marks = Marks(tokenizer, split.end_of_text_id)
        self._tool = calculator_tool(tokenizer) if rollouts.tool else None
        self._should_stop = should_stop
        self._name = identify(rollouts.prompts)
        self._decoding = Decoding(
            max_new_tokens=rollouts.max_new_tokens,
            temperature=rollouts.temperature,
            top_k=rollouts.top_k,
            seed=derive_key("rollouts", phase.seed),
        )
        longest = phase.seq_len - rollouts.max_new_tokens
        self._usable = prompts_with_room(split, tokenizer, longest=longest)
        if not len(self._usable):
            raise ValueError(
                f"rollouts.{rollouts.name}: expected prompts of at most {longest} tokens, seq_len less max_new_tokens, got "
                f"none among {split.num_documents}. Raise seq_len, or lower max_new_tokens."
            )
        self.facts: dict[str, float] = {}
        """Of the last batch: `mean_reward`, `mixed_prompts` (the share of prompts with right and wrong answers),
        `answer_tokens` (the mean length of an answer) and `generated_tokens`, the tool's tokens among them."""

    def __call__(self, step: int) -> Batch:
        """Return the batch that the update from state `step` reads, drawn from the run's weights.

        Raises:
            StopRequestedError: `should_stop` returned true.
        """
        assert self._run.step == step
        places, items = self._prompts_at(step)
        prompts = prompts_and_references(self._split, items, self._marks)
        answers = self._answers(places, [prompt for _, prompt, _ in prompts])
        num_samples = self._rollouts.num_samples
        references = [self._marks.text(reply) for _, _, reply in prompts for _ in range(num_samples)]
        right = [
            is_right(self._marks.text(answer.tokens), reference, self._rollouts.score)
            for answer, reference in zip(answers, references, strict=True)
        ]
        rewards = np.array(right, np.float64).reshape(len(places), num_samples)
        num_tokens = sum(len(answer.tokens) for answer in answers)
        self.facts = {
            "mean_reward": float(rewards.mean()),
            "mixed_prompts": float((rewards.min(axis=1) < rewards.max(axis=1)).mean()),
            "answer_tokens": num_tokens / len(answers),
            "generated_tokens": num_tokens,
        }
        return policy_gradient_batch(answers, advantages_of(rewards).ravel(), seq_len=self._placed.phase.seq_len)

    def text_at(self, step: int) -> str:
        """Name the prompts that the update from state `step` reads, so that a user can look for bad text."""
        return f"{self._rollouts.name} train, prompts of items {', '.join(map(str, sorted(self._prompts_at(step)[1])))}"

    def _prompts_at(self, step: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the numbers of a step's prompts within the phase, and their items."""
        number = self._placed.phase.num_sequences // self._rollouts.num_samples
        places = np.arange(number) + (step - self._placed.start_step) * number
        return places, items_at(places, self._usable, seed=self._placed.phase.seed, name=self._name)

    def _answers(self, places: NDArray[np.int64], prompts: Sequence[list[int]]) -> list[Answer]:
        """Return `num_samples` answers to each prompt, in the order of prompts and samples, from all ranks."""
        ranks, num_samples = self._run.ranks, self._rollouts.num_samples
        own = slice(ranks.rank, None, ranks.size)
        made = [(row.tokens, row.is_forced) for row in self._generated(places[own], prompts[own])]
        answers: dict[tuple[int, int], Answer] = {}
        for rank, rows in enumerate(ranks.from_every(made)):
            for index, (tokens, is_forced) in enumerate(rows):
                prompt = rank + index // num_samples * ranks.size
                answers[prompt, index % num_samples] = Answer(prompts[prompt], tokens, is_forced)
        return [answers[place] for place in sorted(answers)]

    def _generated(self, places: NDArray[np.int64], prompts: Sequence[list[int]]) -> Iterator[Generated]:
        together = max(1, ANSWERS_TOGETHER // self._rollouts.num_samples)
        for first in range(0, len(prompts), together):
            yield from generate(
                self._run.model,
                prompts[first : first + together],
                decoding=self._decoding,
                ends=self._marks.ends,
                num_samples=self._rollouts.num_samples,
                tool=self._tool,
                items=[int(place) for place in places[first : first + together]],
                on_tokens=self._poll,
            )

    def _poll(self, rows: Sequence[Generated]) -> None:
        if self._run.ranks.size == 1 and self._should_stop():
            raise StopRequestedError
