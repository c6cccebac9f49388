"""With keys and values kept, new tokens give the logits of the whole sequence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from builders.small_models import LLAMAS, lively

from midstudy.model.cached import KeyValueCache, cached_logits
from midstudy.model.language_model import LanguageModel
from midstudy.recipe.model import pythia

MODELS = [
    pythia("nano", vocab_size=97, max_seq_len=40),
    replace(pythia("70m", vocab_size=97, max_seq_len=40), num_layers=2),
    *(replace(shape, vocab_size=97, max_seq_len=40) for shape in LLAMAS),
]


@pytest.fixture(scope="module", params=MODELS, ids=lambda shape: shape.name)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return lively(request.param)


def test_tokens_one_at_a_time_give_the_logits_of_the_whole(model: LanguageModel) -> None:
    ids = torch.randint(97, (3, 40), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = model(ids)
    cache = KeyValueCache(model, num_rows=3, length=40)
    for place in range(40):
        positions = torch.full((3, 1), place)
        torch.testing.assert_close(cached_logits(model, ids[:, place : place + 1], positions, cache), whole[:, place])


def test_prompts_of_different_lengths_do_not_see_their_padding(model: LanguageModel) -> None:
    """Rows of 5 and 9 tokens begin together; each then gives the logits that it has alone."""
    ids = torch.randint(97, (2, 20), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([5, 9])
    with torch.no_grad():
        alone = [model(ids[row : row + 1])[0] for row in range(2)]
    cache = KeyValueCache(model, num_rows=2, length=20)
    padded = ids[:, :9].clone()
    padded[0, 5:] = 7
    logits = cached_logits(model, padded, torch.arange(9).expand(2, -1), cache, last=lengths - 1)
    for new in range(10):
        places = lengths - 1 + new
        for row in range(2):
            torch.testing.assert_close(logits[row], alone[row][places[row]])
        following = (places + 1)[:, None]
        logits = cached_logits(model, ids.gather(1, following), following, cache)


def test_rows_that_are_dropped_leave_the_others_as_they_are(model: LanguageModel) -> None:
    ids = torch.randint(97, (3, 12), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        whole = model(ids)
    cache = KeyValueCache(model, num_rows=3, length=12)
    cached_logits(model, ids[:, :11], torch.arange(11).expand(3, -1), cache)
    rows = torch.tensor([0, 2])
    cache.keep(rows)
    logits = cached_logits(model, ids[rows, 11:], torch.full((2, 1), 11), cache)
    torch.testing.assert_close(logits, whole[rows, 11])
