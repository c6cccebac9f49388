"""A stage of a store that an argument of `midstudy compare` names: a state whose model is used, or a tokenizer."""

from __future__ import annotations

from pathlib import Path

from midstudy.recipe.curriculum import State
from midstudy.recipe.data import ReleasedTokenizer, Tokenizer
from midstudy.recipe.decode import decode
from midstudy.recipe.errors import RecipeError
from midstudy.recipe.stage import stage_id
from midstudy.store.store import Store


def stored_stage(root: Path, name: str, *, option: str) -> tuple[Store, str, State | Tokenizer | ReleasedTokenizer]:
    """Return the store, and the id and the recipe of its finished state or tokenizer that `name` means.

    Args:
        name: the id, its beginning, or the label of the stage.
        option: how messages name the argument.

    Raises:
        RecipeError: no such stage, or several, match.
        StoreError: there is no store, or its files are damaged.
    """
    store = Store.open(root)
    by_id = [one for one in store.stage_ids() if one.startswith(name)]
    found = by_id or [one for one in store.stage_ids() if store.requested(one)["label"] == name]
    recipes = {one: decode(store.record(one).recipe) for one in found if store.has(one)}
    fitting = {one: recipe for one, recipe in recipes.items() if isinstance(recipe, State | Tokenizer | ReleasedTokenizer)}
    if len(fitting) != 1:
        got = f"{name}, which matches {len(fitting)} of them" if fitting else f"{name}, which is none"
        raise RecipeError(
            option, expected=f"the id of a finished state or tokenizer of the store {root}", got=got,
            fix="`midstudy status` lists stages; --store names another store.",
        )  # fmt: skip
    ((found_id, recipe),) = fitting.items()
    return store, found_id, recipe


def tokenizer_of(recipe: State | Tokenizer | ReleasedTokenizer) -> Tokenizer | ReleasedTokenizer:
    """Return the tokenizer of a state, or the tokenizer itself."""
    return recipe.curriculum.start.tokenizer if isinstance(recipe, State) else recipe


def tokenizer_folder(store: Store, recipe: State | Tokenizer | ReleasedTokenizer) -> Path:
    """Return the folder with the `tokenizer.json` that was published; its digest is checked.

    Raises:
        StoreError: the tokenizer is not in the store, or its files changed.
    """
    tokenizer = stage_id(tokenizer_of(recipe))
    store.require_unchanged(tokenizer)
    return store.published_folder(tokenizer)
