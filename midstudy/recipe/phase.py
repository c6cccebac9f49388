"""A phase: one (data, loss, length) of a curriculum, and what it takes over from the previous phase.

The paper defines training as S = {(D_i, L_i, n_i)}. A phase also states whether the optimizer state, the learning rate and
the data positions continue or start again.
"""

from __future__ import annotations

from dataclasses import dataclass

from midstudy.recipe import versions
from midstudy.recipe.canonical import added_field, label_field
from midstudy.recipe.data import Dataset
from midstudy.recipe.errors import (
    RecipeError,
    require_choice,
    require_flag,
    require_kind,
    require_name,
    require_number,
    require_positive,
)
from midstudy.recipe.factors import Factors, require_factors
from midstudy.recipe.mixture import Mixture, MixtureRamp
from midstudy.recipe.optimizer import AdamW
from midstudy.recipe.plain import hold_plain_numbers
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.schedule import Schedule, require_schedule
from midstudy.recipe.shape import AnyShape
from midstudy.recipe.task_data import TaskData
from midstudy.recipe.task_mixture import TaskMixture

TAKE_OVER = ("continue", "reset")
LOSSES = ("all_tokens", "target_tokens")
POLICY_GRADIENT = "policy_gradient"
"""The loss of rollouts, and of nothing else."""

PRECISIONS = ("fp32", "bf16_mixed", "bf16_true")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of training with one kind of data.

    `num_steps` is the phase's length and does not affect the ids of its states. `schedule` is the learning rate over the
    phase's own steps, or the multiplier of the groups' rates if the optimizer has groups; `None` continues the curve of the
    previous phase. `num_sequences` and `seq_len` (in tokens) are the shape of the global batch. `bf16_mixed` computes in
    bfloat16 with fp32 master weights; `bf16_true` keeps weights and moments in bfloat16, as the paper's authors did. With a
    `Task`, a sequence is one item, padded or truncated to `seq_len`. The loss `target_tokens` masks the prompt, or gives its
    tokens the loss weight `prompt_weight` where target tokens have 1 (prompt-loss weighting). With a `TaskMixture`, the
    items of several tasks are packed into the sequences.

    With a `Mixture`, a sequence is a block of packed documents. `document_mask` keeps attention inside each document, which
    ends with its end-of-text token. That token still predicts the first token of the next document, as in litgpt and OLMo:
    the mask changes what a token attends to, not which tokens have a loss, so token counts are equal between arms. The
    characters `<|endoftext|>` inside a corpus's text are read as that token too, and end a document there.

    With `Rollouts`, the model answers prompts itself, `num_sequences` answers a step, and the loss is `policy_gradient`.
    `seq_len` is the limit of prompt and answer together.

    Of conversations, in a task or in a mixture, `target_tokens` counts the assistant's tokens alone. All tokens of the other
    corpora of the mixture count.

    `factors` state what the phase fixes in a study. `name` labels its states.
    """

    name: str = label_field()
    data: Mixture | MixtureRamp | TaskData
    loss: str
    num_steps: int
    num_sequences: int
    seq_len: int
    optimizer: AdamW
    schedule: Schedule | None
    precision: str
    seed: int
    optimizer_state: str
    data_positions: str
    order_version: int = versions.ORDER
    training_version: int = versions.TRAINING
    document_mask: bool = added_field(omit_at=False)
    prompt_weight: float = added_field(omit_at=0)
    factors: Factors = label_field(default=())

    def __post_init__(self) -> None:
        hold_plain_numbers(self)
        require_name("phase.name", self.name)
        path = f"phases.{self.name}"
        require_factors(f"{path}.factors", self.factors)
        kinds = Mixture | MixtureRamp | TaskData
        expected = "a Mixture of corpora, a MixtureRamp, a Task, a TaskMixture or Rollouts"
        require_kind(f"{path}.data", self.data, kinds, expected=expected)
        require_kind(f"{path}.optimizer", self.optimizer, AdamW, expected="AdamW")
        if self.schedule is not None:
            require_schedule(f"{path}.schedule", self.schedule)
        if isinstance(self.num_steps, bool) or not isinstance(self.num_steps, int) or self.num_steps < 0:
            raise RecipeError(f"{path}.num_steps", expected="a whole number of steps, at least 0", got=self.num_steps)
        require_positive(f"{path}.num_sequences", self.num_sequences, unit="sequences")
        require_positive(f"{path}.seq_len", self.seq_len, unit="tokens")
        require_choice(f"{path}.loss", self.loss, (POLICY_GRADIENT,) if isinstance(self.data, Rollouts) else LOSSES)
        require_choice(f"{path}.precision", self.precision, PRECISIONS)
        require_choice(f"{path}.optimizer_state", self.optimizer_state, TAKE_OVER)
        require_choice(f"{path}.data_positions", self.data_positions, TAKE_OVER)
        conversations = [data.name for data in self.datasets if data.source.is_conversations]
        if not isinstance(self.data, TaskData) and self.loss != "all_tokens" and not conversations:
            raise RecipeError(
                f"{path}.loss", expected="all_tokens, the only loss for a mixture without conversations", got=self.loss
            )
        require_flag(f"{path}.document_mask", self.document_mask)
        if self.document_mask and conversations:
            expected = f"False with {conversations[0]}: a conversation begins with the token that ends a document"
            raise RecipeError(f"{path}.document_mask", expected=expected, got=True)
        if isinstance(self.data, TaskData) and self.document_mask:
            raise RecipeError(f"{path}.document_mask", expected="False for tasks, whose items are not documents", got=True)
        if isinstance(self.data, TaskMixture):
            self.data.require_rows(f"{path}.num_sequences", self.num_sequences)
        self._check_prompt_weight(f"{path}.prompt_weight")
        if isinstance(self.data, TaskData) and self.data_positions != "reset":
            raise RecipeError(
                f"{path}.data_positions",
                expected="reset for tasks, whose items start from the beginning",
                got=self.data_positions,
            )
        if isinstance(self.data, Rollouts):
            self._check_rollouts(path, self.data)
        if isinstance(self.seed, bool) or not isinstance(self.seed, int) or not 0 <= self.seed < 2**63:
            raise RecipeError(f"{path}.seed", expected="a whole number in [0, 2^63)", got=self.seed)

    def _check_prompt_weight(self, path: str) -> None:
        value = self.prompt_weight
        fix = 'To weigh prompts like targets, use loss="all_tokens".' if value == 1 else ""
        require_number(path, value, 0, 1, fix=fix)
        if value and self.loss != "target_tokens":
            raise RecipeError(
                path,
                expected=f"0 with loss {self.loss}, which weighs all tokens equally",
                got=value,
                fix='A prompt weight needs a task and loss="target_tokens".',
            )
        if value and isinstance(self.data, TaskMixture):
            raise RecipeError(path, expected="0 with a mixture of tasks", got=value)

    def _check_rollouts(self, path: str, data: Rollouts) -> None:
        if self.num_sequences % data.num_samples:
            expected = f"a multiple of the {data.num_samples} samples of each prompt"
            raise RecipeError(f"{path}.num_sequences", expected=expected, got=self.num_sequences)
        if self.seq_len <= data.max_new_tokens:
            expected = f"more than the {data.max_new_tokens} new tokens, so that a prompt has room"
            raise RecipeError(f"{path}.seq_len", expected=expected, got=self.seq_len)

    @property
    def tokens_per_step(self) -> int:
        """Tokens of the global batch, including padding."""
        return self.num_sequences * self.seq_len

    def flops_per_token(self, model: AnyShape) -> float:
        """Return training FLOPs per token: forward, backward, and the optimizer's matrix products spread over a step.

        Of rollouts, also the forward pass that generates the token, a third of forward and backward.
        """
        of_update = self.optimizer.flops_per_update(model) / self.tokens_per_step
        of_training = model.flops_per_token(seq_len=self.seq_len)
        return of_training + of_update + (of_training / 3 if isinstance(self.data, Rollouts) else 0)

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """The data sets that the phase reads: the corpora or the tasks of its mixture, its task, or that of its prompts."""
        if isinstance(self.data, TaskData):
            return self.data.tasks
        return self.data.corpora

    @property
    def is_tuning(self) -> bool:
        """Whether each sequence is one item of a task, as in supervised fine-tuning."""
        return isinstance(self.data, TaskData) and self.data.is_unpacked
