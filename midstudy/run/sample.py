"""Let a trained state of the store continue texts, or answer as the assistant of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tokenizers

from midstudy.data.conversation import Piece, Turn, rendered
from midstudy.data.shards import piece_ids
from midstudy.data.tokenizer import load_tokenizer
from midstudy.evaluate.generate import Decoding, Generated, Tool, calculator_tool, generate, special_ids
from midstudy.evaluate.model_cache import load_model
from midstudy.execute.state import CHECKPOINT_FOLDER
from midstudy.files.errors import StoreError
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.curriculum import State
from midstudy.recipe.data import CONVERSATION_TOKENS, end_of_text_id
from midstudy.recipe.decode import decode
from midstudy.recipe.stage import stage_id
from midstudy.store.store import Store


@dataclass(frozen=True, kw_only=True)
class Speaker:
    """A state's model with its tokenizer; `is_for_chat` if the tokenizer has the marks of conversations."""

    model: LanguageModel
    tokenizer: tokenizers.Tokenizer
    end_of_text_id: int
    is_for_chat: bool

    @classmethod
    def of(cls, store: Store, state_id: str) -> Speaker:
        """Load a finished state.

        Raises:
            StoreError: the state or its tokenizer is not finished, or its files were changed.
        """
        state: State = decode(store.record(state_id).recipe)
        start = state.curriculum.start
        tokenizer = stage_id(start.tokenizer)
        if not store.has(tokenizer):
            raise StoreError(f"stage {tokenizer}: the tokenizer of this state is not finished; run the study first.")
        store.require_unchanged(tokenizer)
        return cls(
            model=load_model(store.published_folder(state_id) / CHECKPOINT_FOLDER),
            tokenizer=load_tokenizer(store.published_folder(tokenizer)),
            end_of_text_id=end_of_text_id(start.tokenizer),
            is_for_chat={*CONVERSATION_TOKENS} <= {*start.tokenizer.special_tokens},
        )

    def ids(self, text: str) -> list[int]:
        """Return the token ids of a text."""
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def request(self, text: str, *, is_first: bool) -> list[int]:
        """Return the token ids of a user's message, up to the mark after which the assistant speaks.

        Raises:
            ValueError: the tokenizer lacks the marks of conversations.
        """
        special_ids(self.tokenizer)
        user = rendered([Turn("user", (("text", text),))])
        pieces = [*(user if is_first else user[1:]), Piece(CONVERSATION_TOKENS[2], True, False)]
        return piece_ids(self.tokenizer, pieces, end_of_text_id=self.end_of_text_id)

    @property
    def end_of_turn(self) -> int:
        """The token that ends the assistant's turn."""
        return special_ids(self.tokenizer)[3]

    @property
    def ends(self) -> frozenset[int]:
        """The tokens that end a text: the end of text and, of a reply, the end of the assistant's turn."""
        return frozenset((self.end_of_text_id, *((self.end_of_turn,) if self.is_for_chat else ())))

    @property
    def tool(self) -> Tool | None:
        """The calculator; `None` for a model that has no way to call it."""
        return calculator_tool(self.tokenizer) if self.is_for_chat else None

    def continued(
        self,
        prompts: Sequence[Sequence[int]],
        decoding: Decoding,
        *,
        num_samples: int = 1,
        on_tokens: Callable[[Sequence[Generated]], None] = lambda rows: None,
    ) -> list[Generated]:
        """Return `num_samples` continuations of each prompt, given as token ids.

        Raises:
            ValueError: a prompt is empty or fills the context.
        """
        return generate(
            self.model,
            prompts,
            decoding=decoding,
            ends=self.ends,
            num_samples=num_samples,
            tool=self.tool,
            on_tokens=on_tokens,
        )

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens, with the marks of tool calls but without the end."""
        kept = list(tokens[:-1] if tokens and tokens[-1] in self.ends else tokens)
        return self.tokenizer.decode(kept, skip_special_tokens=False)
