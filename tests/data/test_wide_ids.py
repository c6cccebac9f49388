"""Vocabularies of more than 65,536 tokens, and documents that end with another token than id 0, as in Llama 3 and Qwen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from builders.small_study import write_split as write_rows
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from midstudy.data.batches import pack_blocks
from midstudy.data.release import released_tokenizer
from midstudy.data.shards import read_index, write_split
from midstudy.data.source import resolve_source
from midstudy.data.token_bytes import token_bytes
from midstudy.data.tokenizer import train_tokenizer
from midstudy.data.tokens import read_split
from midstudy.execute.data import copy_tokenizer, make_counts, make_tokens
from midstudy.recipe import Corpus, Start, TokenCounts, pythia
from midstudy.recipe.canonical import canonical
from midstudy.recipe.data import ReleasedTokenizer, Source, TokenizedData
from midstudy.recipe.errors import RecipeError

END = "<|end_of_text|>"
END_ID = 70_001
WORD_ID = 69_999
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def llama_like() -> tokenizers.Tokenizer:
    """A byte-level BPE as Llama 3 states it: bytes first, so id 0 is a letter, and special tokens at the end."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: number for number, letter in enumerate(letters)}
    vocab.update({f"Z{number:x}Z": number for number in range(len(letters), WORD_ID)})
    vocab["zz"] = WORD_ID
    made = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=[("z", "z")], ignore_merges=True))
    split = pre_tokenizers.Split(Regex(WORDS), behavior="isolated")
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken("<|begin_of_text|>", special=True), AddedToken(END, special=True)])
    assert made.token_to_id(END) == END_ID
    return made


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama-like")
    llama_like().save(str(folder / "tokenizer.json"))
    return folder


def test_ids_above_65535_are_stored_in_32_bits_and_read_back(tmp_path):
    made = llama_like()
    texts = ["zz a zz", f"b{END}", "", "größer zz"]
    index = write_split(made, [(text,) for text in texts], tmp_path, "train", shard_bytes=8, end_of_text_id=END_ID)
    assert (index.id_bytes, index.end_of_text_id) == (4, END_ID)
    assert read_index(tmp_path, "train") == index
    split = read_split(tmp_path, "train")
    wanted = [[*made.encode(text.removesuffix(END), add_special_tokens=False).ids, END_ID] for text in texts]
    assert [split.document(number).tolist() for number in range(4)] == wanted
    assert split.document(0)[0] == WORD_ID
    assert split.tokens[:].dtype == np.uint32
    on_disk = np.concatenate([np.fromfile(path, "<u4") for path in sorted(tmp_path.glob("*.tokens"))])
    assert on_disk.tolist() == [token for document in wanted for token in document]


def test_shards_of_a_small_vocabulary_keep_their_bytes_and_state_nothing_new(tmp_path):
    made = train_tokenizer(["time year people way day man thing woman life child"] * 9, vocab_size=270)
    write_split(made, [("time",)], tmp_path, "train")
    assert set(json.loads((tmp_path / "train.shards.json").read_text())) == {"shard_bytes", "shards", "is_complete"}
    ids = made.encode("time").ids
    assert (tmp_path / "train-00000.tokens").read_bytes() == np.array([*ids, 0], "<u2").tobytes()


def test_documents_are_separated_at_the_tokenizers_own_end_of_text():
    blocks = np.array([[5, 0, END_ID, 7, 0, END_ID, 8]])
    batch = pack_blocks(blocks, document_mask=True, end_of_text_id=END_ID)
    assert batch.documents is not None
    assert batch.documents.tolist() == [[0, 0, 0, 1, 1, 1]]


def test_the_bytes_of_id_0_count_if_it_is_a_letter():
    sizes = token_bytes(llama_like())
    assert (sizes[0], sizes[WORD_ID], sizes[END_ID]) == (1, 2, 0)


def test_a_released_tokenizer_starts_a_model_and_its_data_stages_run(release, tmp_path):
    tokenizer = released_tokenizer(str(release), end_of_text=END)
    assert (tokenizer.vocab_size, tokenizer.end_of_text_id) == (END_ID + 1, END_ID)
    Start(model=pythia("nano", vocab_size=70_016, max_seq_len=32), tokenizer=tokenizer, seed=0)
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / "x", split, [{"text": f"zz {number}"} for number in range(20)])
    corpus = Corpus(name="x", source=resolve_source(str(tmp_path), name="x", folder="x", is_task=False))
    made = {name: tmp_path / name for name in ("tokenizer", "tokens", "counts")}
    for folder in made.values():
        folder.mkdir()
    copy_tokenizer(tokenizer, made["tokenizer"])
    metrics = make_tokens(TokenizedData(data=corpus, tokenizer=tokenizer), made["tokenizer"], made["tokens"])
    assert metrics["train_documents"] == 20
    assert read_split(made["tokens"], "train").tokens[0:1].tolist() == [WORD_ID]
    counts = TokenCounts(data=corpus, tokenizer=tokenizer, num_documents=20, tokens_per_document=8, seed=0)
    assert make_counts(counts, made["tokens"], made["counts"])["sampled_documents"] == 20


def test_the_id_of_the_end_is_part_of_the_recipe_only_if_it_is_not_0():
    source = Source(kind="files", part="", revision="r")
    facts: dict[str, Any] = {"name": "x", "digest": "d", "vocab_size": 300, "source": source}
    assert "end_of_text_id" not in canonical(ReleasedTokenizer(**facts))
    assert canonical(ReleasedTokenizer(**facts, end_of_text_id=7))["end_of_text_id"] == 7
    with pytest.raises(RecipeError, match="an id of the vocabulary"):
        ReleasedTokenizer(**facts, end_of_text_id=300)


@pytest.mark.parametrize(("end", "message"), [("<|eot|>", "got no such token"), ("zz", "a token of ordinary text")])
def test_the_end_of_text_must_be_a_special_token(release, end, message):
    with pytest.raises(RecipeError, match=message):
        released_tokenizer(str(release), end_of_text=end)
