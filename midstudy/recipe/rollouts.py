"""Recipe of rollouts: training data that the model being trained generates, with the reward of each answer."""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe import versions
from midstudy.recipe.data import Task
from midstudy.recipe.errors import RecipeError, require_choice, require_flag, require_number, require_positive
from midstudy.recipe.generation import SCORES
from midstudy.recipe.plain import hold_plain_numbers


@dataclass(frozen=True, kw_only=True)
class Rollouts:
    """Answers to conversations of a train split, drawn from the weights of each step: the data of reinforcement learning.

    A step reads `phase.num_sequences / num_samples` prompts, in a new order each epoch, and draws `num_samples` answers to
    each, of at most `max_new_tokens` tokens, among the `top_k` most likely tokens if it is given. The prompt is the
    conversation up to its last reply. Conversations without room for prompt and answer in `phase.seq_len` tokens are left
    out and counted. With `tool`, the calculator answers the model's calls.

    The reward of an answer is 1 if it is right by `score` (see `Generation`), else 0. Its advantage A is its reward less the
    mean reward of its prompt's answers. The loss `policy_gradient` is −Σ A log p(token) / (number of tokens), over the
    tokens of all answers of the step that the model chose, the end of the turn included; prompts, the tool's tokens and
    padding have none. There is neither a KL term nor clipping, since every answer is used once, by the weights that drew it.
    The log probability is that of the whole softmax at temperature 1, also if answers are drawn otherwise.

    Source: karpathy/nanochat `scripts/chat_rl.py` at 92c6654. Differences: there all answers to a prompt have the same first
    token, since it is drawn once for the batch, and here each draws its own; there the token that ends a turn is not
    trained on; and there the loss of a micro-batch is divided by its own number of tokens, here by that of the step, so that
    micro-batches do not change the loss.
    """

    prompts: Task
    score: str
    num_samples: int
    max_new_tokens: int
    tool: bool
    temperature: float = 1
    top_k: int | None = None
    generation_version: int = versions.GENERATION
    version: int = versions.ROLLOUTS

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        expected = "a task of conversations"
        if not isinstance(self.prompts, Task):
            raise RecipeError("rollouts.prompts", expected=expected, got=f"a value of type {type(self.prompts).__name__}")
        path = f"rollouts.{self.name}"
        if not self.prompts.source.is_conversations:
            raise RecipeError(f"{path}.prompts", expected=expected, got=f"prompt-target pairs from {self.prompts.origin}")
        require_choice(f"{path}.score", self.score, SCORES)
        require_positive(f"{path}.max_new_tokens", self.max_new_tokens, unit="tokens")
        require_positive(f"{path}.num_samples", self.num_samples, unit="samples")
        if self.num_samples < 2:
            expected = "at least 2 samples, since the advantage of a single answer is always 0"
            raise RecipeError(f"{path}.num_samples", expected=expected, got=self.num_samples)
        require_flag(f"{path}.tool", self.tool)
        require_number(f"{path}.temperature", self.temperature, 0, 100)
        if self.temperature == 0:
            expected = "a number above 0, since all greedy answers to a prompt are equal"
            raise RecipeError(f"{path}.temperature", expected=expected, got=self.temperature)
        if self.top_k is not None:
            require_positive(f"{path}.top_k", self.top_k, unit="tokens")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The task of the prompts."""
        return (self.prompts,)

    @property
    def is_unpacked(self) -> bool:
        """Whether a sequence of a phase holds a single item."""
        return True

    @property
    def name(self) -> str:
        """The name of the prompts' task."""
        return self.prompts.name
