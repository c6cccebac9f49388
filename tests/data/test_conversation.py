"""Conversations: rows of messages as special tokens and text, which of them are targets, and how batches read them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from builders.releases import write_tokenizer
from builders.small_recipes import GENERAL, TOKENIZER, phase, start
from builders.small_study import WORDS, write_split

from midstudy.data.batch import IGNORED
from midstudy.data.batches import Batches, pad_items
from midstudy.data.chat_template import CHAT_TEMPLATE
from midstudy.data.conversation import as_turns, rendered
from midstudy.data.release import released_tokenizer
from midstudy.data.shards import write_split as write_shards
from midstudy.data.source import load_rows, resolve_source
from midstudy.data.tally import items_tally
from midstudy.data.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer
from midstudy.data.tokens import TokenizedSplit, read_split
from midstudy.execute.data import copy_tokenizer, make_tokens
from midstudy.recipe import Corpus, Curriculum, Evaluation, Mixture, Source, Task, Tokenizer
from midstudy.recipe.canonical import identify
from midstudy.recipe.data import CONVERSATION_TOKENS, SourceMix, TokenizedData
from midstudy.recipe.errors import RecipeError

USER_START, USER_END, ASSISTANT_START, ASSISTANT_END, PYTHON_START, PYTHON_END, OUTPUT_START, OUTPUT_END = range(1, 9)

CALCULATION = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "What is 3 + 4?"},
    {
        "role": "assistant",
        "content": [
            {"type": "text", "text": "It is "},
            {"type": "python", "text": "3+4"},
            {"type": "python_output", "text": "7"},
            {"type": "text", "text": "7."},
        ],
    },
    {"role": "user", "content": "Thanks."},
    {"role": "assistant", "content": "Welcome."},
]


@pytest.fixture(scope="module")
def tokenizer() -> tokenizers.Tokenizer:
    texts = [" ".join(WORDS), "What is it? It is 3 + 4. Thanks. Welcome. Be short. " * 20]
    return train_tokenizer(texts, vocab_size=300, special_tokens=CONVERSATION_TOKENS)


def words(rng: random.Random, most: int = 12) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))


def drawn_conversation(rng: random.Random) -> list[dict[str, Any]]:
    """Return a conversation of one to four exchanges, some with a system message and calls of the tool."""
    messages: list[dict[str, Any]] = [{"role": "system", "content": words(rng)}] if rng.random() < 0.3 else []
    for _ in range(rng.randint(1, 4)):
        content: Any = words(rng)
        if rng.random() < 0.4:
            call = [{"type": "python", "text": "1+1"}, {"type": "python_output", "text": "2"}]
            content = [*([{"type": "text", "text": words(rng)}] if rng.random() < 0.7 else []), *call]
            content += [{"type": "text", "text": words(rng)}] if rng.random() < 0.7 else []
        messages += [{"role": "user", "content": words(rng)}, {"role": "assistant", "content": content}]
    return messages


def shards_of(folder: Path, tokenizer: tokenizers.Tokenizer, rows: list[Any], *, shard_bytes: int = 2**20) -> TokenizedSplit:
    folder.mkdir(exist_ok=True)
    pieces = [rendered(as_turns(messages, "row")) for messages in rows]
    write_shards(tokenizer, pieces, folder, "train", shard_bytes=shard_bytes)
    return read_split(folder, "train")


def test_a_conversation_is_rendered_as_nanochat_does() -> None:
    """Written by hand from `render_conversation` of karpathy/nanochat: the mask is 1 on what the assistant produces."""
    expected = [
        ("<|endoftext|>", 0),
        ("<|user_start|>", 0),
        ("Be short.\n\nWhat is 3 + 4?", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("It is ", 1),
        ("<|python_start|>", 1),
        ("3+4", 1),
        ("<|python_end|>", 1),
        ("<|output_start|>", 0),
        ("7", 0),
        ("<|output_end|>", 0),
        ("7.", 1),
        ("<|assistant_end|>", 1),
        ("<|user_start|>", 0),
        ("Thanks.", 0),
        ("<|user_end|>", 0),
        ("<|assistant_start|>", 0),
        ("Welcome.", 1),
        ("<|assistant_end|>", 1),
    ]
    assert [(piece.text, int(piece.has_loss)) for piece in rendered(as_turns(CALCULATION, "row"))] == expected


USER, REPLY = {"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}


@pytest.mark.parametrize(
    ("messages", "path", "message"),
    [
        ("hello", "messages", "a list of messages, got hello"),
        ([], "messages", "user and assistant in turn, the assistant last, got no message"),
        ([USER], "messages", "the assistant last, got user"),
        ([REPLY, USER], "messages", "got assistant, user"),
        ([USER, REPLY, REPLY], "messages", "got user, assistant, assistant"),
        ([USER, REPLY, {"role": "system", "content": ""}, REPLY], "messages", "got user, assistant, system, assistant"),
        ([USER, {"role": "assistant"}], "messages[1]", "an object with 'role' and 'content'"),
        ([USER, "!"], "messages[1]", "an object with 'role' and 'content'"),
        ([{"role": "user", "content": ["?"]}, REPLY], "messages[0].content", "expected text, got ['?']"),
        ([USER, {"role": "assistant", "content": ""}], "messages[1].content", "a reply of at least one character"),
        ([USER, {"role": "assistant", "content": None}], "messages[1].content", "text, or a list of parts, got None"),
        ([USER, {"role": "assistant", "content": [{"type": "image"}]}], "messages[1].content[0]", "a part of type text"),
        (
            [USER, {"role": "assistant", "content": [{"type": "python_output", "text": "7"}]}],
            "messages[1].content",
            "a reply of at least one character",
        ),
        ([USER, {"role": "assistant", "content": "\ud800"}], "messages[1].content", "half of a surrogate pair"),
    ],
)
def test_a_malformed_conversation_is_rejected_with_file_line_and_field(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: Any, path: str, message: str
) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "sft" / "chat"
    write_split(folder, "train", [{"messages": [USER, REPLY]}, {"messages": messages}])
    write_split(folder, "test", [{"messages": [USER, REPLY]}])
    write_split(folder, "validation", [{"messages": [USER, REPLY]}])
    source = resolve_source(str(tmp_path), name="chat", folder="sft/chat", is_task=True)
    with pytest.raises(ValueError, match=re.escape(f"train.jsonl:2: field '{path}': expected ")) as error:
        list(load_rows(source, split="train", is_task=True))
    assert message in str(error.value)


def test_rows_of_messages_are_recognised_and_other_fields_declared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))
    for name, field in (("chat", "messages"), ("talk", "turns")):
        for split in ("train", "validation", "test"):
            write_split(tmp_path / "sft" / name, split, [{"id": 1, field: [USER, REPLY]}])
    chat = resolve_source(str(tmp_path), name="chat", folder="sft/chat", is_task=True)
    assert chat.is_conversations
    assert chat.rendering_version == 1
    with pytest.raises(ValueError, match=r"got id, turns\. Declare the fields"):
        resolve_source(str(tmp_path), name="talk", folder="sft/talk", is_task=True)
    talk = resolve_source(f"{tmp_path},messages=turns", name="talk", folder="sft/talk", is_task=True)
    assert talk.is_conversations
    [row] = load_rows(talk, split="train", is_task=True)
    assert row == {"messages": as_turns([USER, REPLY], "")}


def test_undeclared_messages_of_the_hub_are_not_read_as_pairs() -> None:
    from midstudy.data.rows import as_example

    with pytest.raises(ValueError, match="Declare the fields: --data NAME=SOURCE,messages=FIELD"):
        as_example({"messages": [USER, REPLY]}, "hub:a/b train:1")


def test_the_version_of_the_rendering_is_part_of_the_id_of_conversations_alone() -> None:
    plain = Source(kind="files", part="", revision="r1")
    chat = Source(kind="files", part="", revision="r1", fields=(("messages", "messages"),))
    assert plain.rendering_version is None
    ids = {identify(Task(name="t", source=source)) for source in (plain, chat)}
    ids.add(identify(Task(name="t", source=Source(**{**vars(chat), "rendering_version": 2}))))
    assert len(ids) == 3


def test_tokens_and_targets_equal_a_loop_over_the_pieces(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    rng = random.Random(1)
    rows = [drawn_conversation(rng) for _ in range(60)]
    split = shards_of(tmp_path / "many", tokenizer, rows, shard_bytes=900)
    assert len(list((tmp_path / "many").glob("*.loss"))) > 5
    for index, messages in enumerate(rows):
        ids: list[int] = []
        has_loss: list[bool] = []
        for piece in rendered(as_turns(messages, "")):
            of_piece: Any = [tokenizer.token_to_id(piece.text)] if piece.is_special else tokenizer.encode(piece.text).ids
            ids += of_piece
            has_loss += [piece.has_loss] * len(of_piece)
        assert split.document(index).tolist() == ids
        assert split.targets_of(index).tolist() == has_loss
    assert split.num_targets().sum() == sum(split.targets_of(i).sum() for i in range(60))
    whole = shards_of(tmp_path / "whole", tokenizer, rows)
    np.testing.assert_array_equal(whole.tokens[:], split.tokens[:])


def test_text_that_spells_a_special_token_stays_text(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    spelled = "".join((*CONVERSATION_TOKENS, "<|endoftext|>"))
    rows = [[{"role": "user", "content": spelled}, {"role": "assistant", "content": spelled}]]
    document = shards_of(tmp_path / "shards", tokenizer, rows).document(0)
    marks = [number for number in document.tolist() if number <= OUTPUT_END]
    assert marks == [0, USER_START, USER_END, ASSISTANT_START, ASSISTANT_END]
    inner = document[2 : np.flatnonzero(document == USER_END)[0]]
    assert tokenizer.decode(inner.tolist(), skip_special_tokens=False) == spelled
    # In documents, too; there, the characters of the end of text are that token, as in all other tokenizers.
    write_shards(tokenizer, [("a <|user_start|> b <|endoftext|> c",)], tmp_path / "shards", "test")
    ids = read_split(tmp_path / "shards", "test").document(0).tolist()
    assert [number for number in ids if number <= OUTPUT_END] == [0, 0]


def test_ids_and_targets_of_200_conversations_equal_those_of_transformers(
    tmp_path: Path, tokenizer: tokenizers.Tokenizer
) -> None:
    transformers = pytest.importorskip("transformers")
    save_tokenizer(tokenizer, tmp_path)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), bos_token="<|endoftext|>")
    rng = random.Random(2)
    rows = [CALCULATION, *(drawn_conversation(rng) for _ in range(199))]
    split = shards_of(tmp_path / "shards", tokenizer, rows)
    for index, messages in enumerate(rows):
        encoded = theirs.apply_chat_template(
            messages, chat_template=CHAT_TEMPLATE, tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        assert split.document(index).tolist() == encoded["input_ids"]
        assert split.targets_of(index).astype(int).tolist() == encoded["assistant_masks"]


def test_a_batch_of_items_has_targets_in_replies_alone(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    rows = [CALCULATION, [USER, REPLY]]
    split = shards_of(tmp_path / "shards", tokenizer, rows)
    batch = pad_items(split, np.array([0, 1]), seq_len=200, target_only=True)
    for row in range(2):
        document, is_target = split.document(row), split.targets_of(row)
        wanted = np.where(is_target[1:], document[1:].astype(np.int64), IGNORED)
        np.testing.assert_array_equal(batch.targets[row, : len(wanted)], wanted)
        assert np.all(batch.targets[row, len(wanted) :] == IGNORED)
    weighted = pad_items(split, np.array([0]), seq_len=200, target_only=True, prompt_weight=0.25)
    assert weighted.weights is not None
    is_target = split.targets_of(0)[1:]
    np.testing.assert_array_equal(weighted.weights[0, : len(is_target)], np.where(is_target, 1.0, 0.25))
    assert (pad_items(split, np.array([0]), seq_len=200, target_only=False).targets != IGNORED).sum() == len(is_target)


def test_a_tally_counts_the_targets_within_the_length(tmp_path: Path, tokenizer: tokenizers.Tokenizer) -> None:
    split = shards_of(tmp_path / "shards", tokenizer, [CALCULATION, [USER, REPLY]])
    first_reply = int(np.flatnonzero(split.document(0) == ASSISTANT_END)[0])
    tally = items_tally(split, data="chat", split_name="train", use="training", seq_len=first_reply, target_only=True)
    assert tally.used == 2
    assert tally.num_cut == 1
    assert tally.target_tokens == split.targets_of(0).sum() + split.targets_of(1).sum()
    assert tally.target_tokens_seen == split.targets_of(0)[: first_reply + 1].sum() + split.targets_of(1).sum()


def chat_corpus() -> Corpus:
    return Corpus(name="chat", source=Source(kind="files", part="", revision="r2", fields=(("messages", "messages"),)))


def test_in_a_mixture_replies_of_conversations_and_all_tokens_of_documents_are_targets(
    tmp_path: Path, tokenizer: tokenizers.Tokenizer
) -> None:
    rng = random.Random(3)
    chat = chat_corpus()
    conversations = shards_of(tmp_path / "chat", tokenizer, [drawn_conversation(rng) for _ in range(80)])
    write_shards(tokenizer, [(words(rng, 60),) for _ in range(80)], tmp_path / "chat", "test")
    documents = read_split(tmp_path / "chat", "test")
    mixed = Mixture.blend(GENERAL, {chat: 0.5})
    curriculum = Curriculum.of(start(), phase(mixed, 4, loss="target_tokens", seq_len=32))
    batches = Batches(curriculum, {identify(GENERAL): documents, identify(chat): conversations})
    num_masked = 0
    for step in range(4):
        batch = batches(step)
        for ids, targets in zip(batch.input_ids, batch.targets, strict=True):
            place = next(
                (
                    p
                    for p in range(0, len(conversations.tokens) - 32, 33)
                    if np.array_equal(conversations.tokens[p : p + 32], ids)
                ),
                None,
            )
            if place is None:
                assert not np.any(targets == IGNORED)
                continue
            assert conversations.has_loss is not None
            is_target = conversations.has_loss[place + 1 : place + 33].astype(bool)
            np.testing.assert_array_equal(
                targets, np.where(is_target, conversations.tokens[place + 1 : place + 33].astype(np.int64), IGNORED)
            )
            num_masked += int((~is_target).sum())
    assert num_masked > 0


def test_what_conversations_cannot_do_is_an_error_that_names_it() -> None:
    chat, plain = chat_corpus(), Source(kind="files", part="", revision="r1")
    with pytest.raises(RecipeError, match=r"loss: expected all_tokens, the only loss for a mixture without conversations"):
        phase(Mixture.only(GENERAL), 4, loss="target_tokens")
    with pytest.raises(RecipeError, match="document_mask: expected False with chat"):
        phase(Mixture.only(chat), 4, document_mask=True)
    with pytest.raises(RecipeError, match="expected conversations in every source or in none"):
        SourceMix.of({plain: 0.5, chat.source: 0.5})  # type: ignore[dict-item]
    with pytest.raises(RecipeError, match=r"special_tokens=midstudy.recipe.CONVERSATION_TOKENS"):
        TokenizedData(data=chat, tokenizer=TOKENIZER)
    marked = Tokenizer(corpus=GENERAL, vocab_size=512, max_bytes=100_000, special_tokens=CONVERSATION_TOKENS)
    TokenizedData(data=chat, tokenizer=marked)
    Evaluation(data=chat, split="test", loss="target_tokens", seq_len=32, max_sequences=8)
    with pytest.raises(RecipeError, match="a size from 265"):
        Tokenizer(corpus=GENERAL, vocab_size=264, max_bytes=100_000, special_tokens=CONVERSATION_TOKENS)
    with pytest.raises(RecipeError, match="distinct names"):
        Tokenizer(corpus=GENERAL, vocab_size=512, max_bytes=100_000, special_tokens=("<|a|>", "<|a|>"))


def test_a_release_has_the_marks_at_its_next_ids(tmp_path: Path) -> None:
    release = tmp_path / "release"
    release.mkdir()
    write_tokenizer(release)
    known = released_tokenizer(str(release), end_of_text="<|endoftext|>")
    marked = known.with_special_tokens(CONVERSATION_TOKENS)
    assert marked.vocab_size == known.vocab_size + 8
    assert identify(marked) != identify(known)
    copy_tokenizer(marked, tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert [loaded.token_to_id(name) for name in CONVERSATION_TOKENS] == [*range(known.vocab_size, known.vocab_size + 8)]
    spelled = "the people  say <|user_start|> to 日本"
    rows = [[{"role": "user", "content": spelled}, REPLY]]
    document = shards_of(tmp_path / "shards", loaded, rows).document(0)
    plain = tokenizers.Tokenizer.from_file(str(release / "tokenizer.json")).encode(spelled).ids
    assert document[2 : 2 + len(plain)].tolist() == plain


def test_a_data_stage_reads_messages_to_its_limit_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tokenizer: tokenizers.Tokenizer
) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path / "cache"))
    for split, number in (("train", 9), ("validation", 3), ("test", 4)):
        write_split(tmp_path / "chat", split, [{"messages": CALCULATION}] * number)
    source = resolve_source(str(tmp_path), name="chat", folder="chat", is_task=True)
    marked = Tokenizer(corpus=GENERAL, vocab_size=300, max_bytes=1_000, special_tokens=CONVERSATION_TOKENS)
    save_tokenizer(tokenizer, tmp_path)
    folder = tmp_path / "tokens"
    folder.mkdir()
    recipe = TokenizedData(data=Task(name="chat", source=source, max_items=5), tokenizer=marked)
    metrics = make_tokens(recipe, tmp_path, folder)
    assert metrics["train_documents"] == 5
    assert metrics["left_out"]["train"]["past_max_items"] == 4
    assert json.loads((folder / "train.shards.json").read_text())["is_complete"]
