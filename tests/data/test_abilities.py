"""The built-in conversations: golden rows, replies recomputed, distributions of the source, and no test item in training."""

from __future__ import annotations

import collections
import hashlib
import io
import json
import math
import pickle
import re
import string
import zipfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from midstudy.data import builtin
from midstudy.data.builtin import facts, packages, word_problems
from midstudy.data.builtin.abilities import prepare, spelling_bee
from midstudy.data.builtin.abilities.prepare import ABILITIES, questions
from midstudy.data.builtin.prepare import TEXT, item_text
from midstudy.data.conversation import Turn, as_turns, plain_text
from midstudy.data.overlap import TestItems, words
from midstudy.data.rows import as_text
from midstudy.data.size import unprepared_parts
from midstudy.data.source import load_rows, resolve_source
from midstudy.evaluate.calculator import calculated
from midstudy.execute.data import make_tokens
from midstudy.recipe import Corpus, Task, Tokenizer
from midstudy.recipe.data import CONVERSATION_TOKENS, TokenizedData

SPLITS = ("train", "dev", "test")
SCORED = tuple(part for part in builtin.CONVERSATIONS if part not in prepare.READ_ONLY)
PAGE = Path(__file__).resolve().parents[2] / "docs" / "builtin.md"


@cache
def rows(part: str, split: str) -> list[dict[str, Any]]:
    return list(builtin.read_part(part, split))


def asked(row: dict[str, Any]) -> str:
    return row["messages"][0]["content"]


def reply(row: dict[str, Any]) -> Any:
    return row["messages"][-1]["content"]


def text_held(row: dict[str, Any]) -> str:
    """Return the text of all messages, the parts of a reply one after the other."""
    contents = [message["content"] for message in row["messages"]]
    return " ".join(text if isinstance(text, str) else "".join(part["text"] for part in text) for text in contents)


def everywhere(part: str) -> Iterator[dict[str, Any]]:
    return (row for split in SPLITS for row in rows(part, split))


# The collection


def test_a_second_list_leaves_the_revision_of_the_text_as_it_was() -> None:
    assert builtin.list_digest() == "65e67aba066926722e37c09bf0488045aa8515d19c764c899936d5e8d641143a"
    text = resolve_source("wheels", name="code", folder="code", is_task=False)
    assert (text.revision, text.fields, text.rendering_version) == (builtin.list_digest(), (), None)


def test_the_revision_follows_from_the_list_and_the_preparation() -> None:
    listed = packages.listed(packages.ABILITIES_LIST)
    assert set(listed) == {"chatterbot-corpus", "english-words", "lm-eval"}
    assert not set(listed) & set(packages.listed())
    lines = "".join(f"{line}\n" for line in sorted(map(str, listed.values()))) + f"preparation {prepare.PREPARATION}\n"
    assert ABILITIES.revision == hashlib.sha256(lines.encode()).hexdigest() == ABILITIES.manifest()["revision"]
    assert ABILITIES.manifest()["list"] == hashlib.sha256(packages.ABILITIES_LIST.read_bytes()).hexdigest()


def test_the_names_of_parts_are_distinct_and_an_unknown_one_is_an_error() -> None:
    assert not set(builtin.CONVERSATIONS) & set(builtin.PARTS)
    with pytest.raises(ValueError, match=r"expected one of general, .*, spelling, .*, got 'poems'"):
        builtin.prepared("poems")


@pytest.mark.parametrize("part", builtin.CONVERSATIONS)
def test_a_part_has_the_frozen_text(part: str) -> None:
    for split, frozen in builtin.part_facts(part)["splits"].items():
        content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows(part, split)).encode()
        assert (len(rows(part, split)), len(content)) == (frozen["docs"], frozen["bytes"])
        assert hashlib.sha256(content).hexdigest() == frozen["sha256"]


def test_text_that_differs_from_the_frozen_text_is_rejected(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))
    monkeypatch.setattr("midstudy.data.builtin.abilities.sums.NUM_DRAWS", 2_000)
    with pytest.raises(
        ValueError, match=r"'sums': the text made here differs from the frozen one \(splits train, dev, test"
    ):
        builtin.prepared("sums")
    assert not (ABILITIES.folder / "sums").exists()


@pytest.mark.parametrize("part", builtin.CONVERSATIONS)
def test_a_part_is_read_as_the_conversations_of_a_task(part: str) -> None:
    source = resolve_source("wheels", name=part, folder=part, is_task=True)
    assert (source.kind, source.part, source.revision, source.is_conversations) == ("wheels", part, ABILITIES.revision, True)
    read = list(load_rows(source, split="dev", is_task=True))
    assert [row["messages"] for row in read] == [as_turns(row["messages"], part) for row in rows(part, "dev")]
    assert all(isinstance(turn, Turn) for row in read for turn in row["messages"])


def test_conversations_may_also_be_a_corpus_but_not_a_control() -> None:
    assert resolve_source("wheels", name="chat", folder="chat", is_task=False).is_conversations
    with pytest.raises(
        ValueError, match=r"mmlu: the source 'wheels' has no such corpus: expected one of general, .*, identity"
    ):
        resolve_source("wheels", name="mmlu", folder="mmlu", is_task=False)


def test_a_row_has_messages_and_no_field_but_subject_choices_and_source() -> None:
    with_choices = {"choices", "choices_cloze", "mmlu"}
    for part in builtin.CONVERSATIONS:
        for row in everywhere(part):
            assert set(row) - {"source"} == {"messages"} | ({"subject", "choices"} if part in with_choices else set())
            if part in with_choices:
                assert isinstance(row["subject"], str)
                assert row["choices"].count(reply(row)) == 1
                assert len(row["choices"]) == len(set(row["choices"])) == 4


def test_the_parts_are_large_enough() -> None:
    least = {"spelling": 50_000, "spelling_bee": 20_000, "sums": 20_000, "calculation": 10_000, "choices": 5_000}
    assert [part for part, count in least.items() if len(rows(part, "train")) < count] == []
    for part in (*least, "choices_cloze"):
        assert min(len(rows(part, "dev")), len(rows(part, "test"))) >= 200
    assert len(rows("chat", "test")) >= 200
    assert sum(1 for _ in everywhere("identity")) >= 200


def test_what_is_prepared_before_a_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIDSTUDY_CACHE", str(tmp_path))

    def needed(part: str) -> set[str]:
        return set(unprepared_parts(resolve_source("wheels", name=part, folder=part, is_task=True)))

    assert needed("spelling") == {"spelling"}
    assert needed("choices") == {"choices", "science_qa"}
    assert needed("chat") == {"chat", "instruction", *builtin.TASKS}
    (ABILITIES.folder / "spelling").mkdir(parents=True)
    assert needed("spelling") == set()


# No test item in training


@pytest.mark.parametrize("part", builtin.CONVERSATIONS)
def test_no_row_is_in_two_splits_or_twice_in_one(part: str) -> None:
    texts = [json.dumps(row["messages"]) for row in everywhere(part)]
    assert len(texts) == len(set(texts))


def test_no_question_of_test_is_asked_or_held_by_a_training_row_of_any_part() -> None:
    items = TestItems(question for part in SCORED for row in rows(part, "test") for question in questions(row))
    for part in builtin.CONVERSATIONS:
        for split in ("train", "dev"):
            for row in rows(part, split):
                assert not any(map(items.overlaps, (*questions(row), text_held(row)))), row


@pytest.mark.slow
def test_no_question_of_test_is_in_the_training_text_of_the_ten_parts() -> None:
    """Neither 13 words of it nor, if it is shorter, the whole: as a text, or as a run of at least five words in one."""
    asked_in_test = [q for part in SCORED for row in rows(part, "test") for q in questions(row)]
    items = TestItems(asked_in_test)
    short: dict[tuple[str, ...], list[list[str]]] = {}
    for question in asked_in_test:
        if 5 <= len(asked_words := words(question)) < 13:
            short.setdefault(tuple(asked_words[-2:]), []).append(asked_words)
    for part in TEXT.parts:
        for row in TEXT.read(part, "train"):
            text = as_text(row, part) if part in builtin.CORPORA else item_text(row)
            assert not items.overlaps(text), text
            read = words(text)
            for end in range(2, len(read) + 1):
                for one in short.get((read[end - 2], read[end - 1]), ()):
                    assert read[max(0, end - len(one)) : end] != one, (part, text)


# Spelling and counting


class _TextOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        raise AssertionError(f"expected a set of text, got {module}.{name}")


def test_the_words_are_those_of_the_package_of_three_to_eight_letters() -> None:
    """Source: the set that its pickle holds, unpickled without any class."""
    wheel = next(packages.fetched(packages.ABILITIES_LIST).glob("english_words-*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        whole = _TextOnly(io.BytesIO(archive.read("english_words/data/web2_alpha_lower.pickle"))).load()
    assert len(whole) == 234_450
    expected = {word for word in whole if 3 <= len(word) <= 8 and set(word) <= set(string.ascii_lowercase)}
    spelt = [asked(row).removeprefix("Spell the word: ") for row in everywhere("spelling")]
    assert len(spelt) == len(set(spelt))
    assert set(spelt) == expected


def test_every_word_is_spelt_letter_by_letter() -> None:
    assert {"berean:b,e,r,e,a,n", "dreamer:d,r,e,a,m,e,r"} <= {reply(row) for row in rows("spelling", "test")}
    for row in everywhere("spelling"):
        word, _, letters = reply(row).partition(":")
        assert asked(row) == f"Spell the word: {word}"
        assert letters.split(",") == list(word)


def counted(row: dict[str, Any]) -> tuple[str, str, int]:
    """Return the word, the letter and the count that a reply's call has."""
    (call,) = [part["text"] for part in reply(row) if part["type"] == "python"]
    match = re.fullmatch(r'"([a-z]+)"\.count\("([a-z])"\)', call)
    assert match
    return match[1], match[2], match[1].count(match[2])


def test_words_of_test_are_neither_spelt_nor_counted_in_training() -> None:
    held_out = {asked(row).removeprefix("Spell the word: ") for row in rows("spelling", "test")}
    assert {counted(row)[0] for row in rows("spelling_bee", "test")} <= held_out
    spelt = {asked(row).removeprefix("Spell the word: ") for row in rows("spelling", "train")}
    assert not held_out & (spelt | {counted(row)[0] for row in rows("spelling_bee", "train")})


def test_a_reply_counts_by_hand_and_with_the_tool() -> None:
    (row,) = [row for row in rows("spelling_bee", "test") if asked(row) == "Which number of e is in 'dreamer'?"]
    text = "".join(f"[{part['type']}]{part['text']}" for part in reply(row))
    assert text == (
        "[text]We are asked to find the number 'e' in the word 'dreamer'. Let me try a manual approach first.\n\n"
        "First spell the word out:\ndreamer:d,r,e,a,m,e,r\n\nThen count the occurrences of 'e':\n"
        "1:d\n2:r\n3:e hit! count=1\n4:a\n5:m\n6:e hit! count=2\n7:r\n\nThis gives us 2.\n\n"
        'Let me double check this using Python:\n\n[python]"dreamer".count("e")[python_output]2'
        "[text]\n\nPython gives us 2.\n\nMy final answer is:\n\n#### 2"
    )
    for row in everywhere("spelling_bee"):
        word, letter, count = counted(row)
        first, call, output, last = (part["text"] for part in reply(row))
        assert calculated(call) == output == str(count)
        assert last.endswith(f"#### {count}")
        walk = re.findall(r"^(\d):([a-z])( hit! count=(\d))?$", first, re.MULTILINE)
        assert [(int(place), read) for place, read, *_ in walk] == list(enumerate(word, start=1))
        hits = [int(running) for _, read, is_hit, running in walk if is_hit and read == letter]
        assert hits == list(range(1, count + 1))
        assert sum(1 for *_, is_hit, _ in walk if is_hit) == count


def is_share(count: int, of: int, expected: float) -> bool:
    """Return whether a count of independent draws is within four standard deviations of its expectation."""
    return abs(count - of * expected) < 4 * math.sqrt(of * expected * (1 - expected))


def test_questions_have_the_sources_distributions() -> None:
    """Letters of the word 90 % of the time, lower case 30 %, three ways of quoting both, a question mark half the time."""
    assert len(set(spelling_bee.TEMPLATES)) == len(spelling_bee.TEMPLATES) >= 50
    shown = rows("spelling_bee", "train")[:8_000]
    in_word = sum(letter in word for word, letter, _ in map(counted, shown))
    letters = [len(set(word)) / 26 for word, _, _ in map(counted, shown)]
    assert is_share(in_word, len(shown), 0.9 + 0.1 * sum(letters) / len(letters))
    assert is_share(sum(asked(row).endswith("?") for row in shown), len(shown), 0.5)
    lower, quotes, templates = 0, collections.Counter[tuple[str, str]](), collections.Counter[str]()
    for row in shown:
        template, is_lower, of_letter, of_word = drawn_for(row)
        lower += is_lower  # never for a template that has no capital
        quotes[of_letter, of_word] += 1
        templates[template] += 1
    with_capitals = sum(templates[template] for template in templates if template != template.lower())
    assert is_share(lower, with_capitals, 0.3)
    assert len(quotes) == 9
    assert all(is_share(count, len(shown), 1 / 9) for count in quotes.values())
    assert all(
        is_share(templates[template], len(shown), 1 / len(spelling_bee.TEMPLATES)) for template in spelling_bee.TEMPLATES
    )


@cache
def forms() -> list[tuple[str, bool, re.Pattern[str]]]:
    """Return each template, whether it is in lower case, and the expression for its questions."""
    slots = {"letter": """(?P<of_letter>['"]?)(?P<letter>[a-z])(?P=of_letter)"""}
    slots["word"] = """(?P<of_word>['"]?)(?P<word>[a-z]+)(?P=of_word)"""
    found = []
    for template in spelling_bee.TEMPLATES:
        for is_lower, text in ((False, template), (True, template.lower())):
            escaped = re.escape(text).replace(r"\{letter\}", slots["letter"]).replace(r"\{word\}", slots["word"])
            found.append((template, is_lower, re.compile(rf"{escaped}\??")))
    return found


def drawn_for(row: dict[str, Any]) -> tuple[str, bool, str, str]:
    """Return the template of a question, whether it is in lower case, and the quotes of letter and word."""
    word, letter, _ = counted(row)
    for template, is_lower, form in forms():
        match = form.fullmatch(asked(row))
        if match and (match["word"], match["letter"]) == (word, letter):
            return template, is_lower, match["of_letter"], match["of_word"]
    raise AssertionError(f"expected a question of a template, got {asked(row)}")


# Arithmetic


def text_of(row: dict[str, Any]) -> str:
    """Return a reply in the form of GSM8K, whose calls are `<<expression=result>>`."""
    marks = {"text": "{}", "python": "<<{}=", "python_output": "{}>>"}
    return "".join(marks[part["type"]].format(part["text"]) for part in reply(row))


def test_a_sum_is_computed_by_its_call_and_stated_last() -> None:
    assert [text_of(row) for row in rows("sums", "test") if asked(row) == "Work out 234 minus 53."] == [
        "234 - 53 = <<234-53=181>>181\n#### 181"
    ]
    for row in everywhere("sums"):
        match = re.fullmatch(r"(\d+) ([+*/-]) (\d+) = <<(.+)=(\d+)>>(\d+)\n#### (\d+)", text_of(row))
        assert match
        left, sign, right, expression, *results = match.groups()
        assert expression == f"{left}{sign}{right}"
        assert set(results) == {calculated(expression)}
        assert re.findall(r"\d+", asked(row)) == [left, right]


def test_two_numbers_of_a_sum_are_in_one_split_whatever_their_order_and_sign() -> None:
    pairs = [{frozenset(re.findall(r"\d+", asked(row))) for row in rows("sums", split)} for split in SPLITS]
    assert not pairs[0] & pairs[1]
    assert not (pairs[0] | pairs[1]) & pairs[2]
    signs = collections.Counter(reply(row)[0]["text"].split()[1] for row in rows("sums", "test"))
    assert set(signs) == {"+", "-", "*", "/"}
    assert min(signs.values()) > 100


def test_a_word_problem_is_split_at_its_calculations() -> None:
    (row,) = [
        row
        for row in rows("calculation", "test")
        if asked(row).startswith(
            "An expedition of 3 people drinks 3 liters of water per person per day. They set out for 8 days with 46"
        )
    ]
    assert [(part["type"], part["text"]) for part in reply(row)][:4] == [
        ("text", "A day takes 3 * 3 = "),
        ("python", "3*3"),
        ("python_output", "9"),
        ("text", "9 liters.\nThe whole way takes 9 * 8 = "),
    ]
    for one in everywhere("calculation"):
        assert all(part["text"] for part in reply(one))
        calls = [part["text"] for part in reply(one) if part["type"] != "text"]
        assert [calculated(expression) for expression in calls[::2]] == calls[1::2]
        assert reply(one)[-1]["text"].endswith(f"\n#### {calls[-1]}")


def test_word_problems_keep_the_text_and_the_splits_of_the_task() -> None:
    task = {split: {row["question"]: row["answer"] for row in TEXT.read("word_problems", split)} for split in SPLITS}
    ours = {split: {asked(row): text_of(row) for row in rows("calculation", split)} for split in SPLITS}
    assert ours["test"] == task["test"]
    assert task["train"].items() <= ours["train"].items()
    assert task["dev"].items() <= ours["dev"].items()
    templates = {split: {row["source"] for row in rows("calculation", split)} for split in SPLITS}
    assert templates["test"] == {f"template {template.name}" for template in word_problems.TEST}
    assert not templates["test"] & (templates["train"] | templates["dev"])


# Choices


def test_a_question_by_letter_is_rendered_as_in_the_source() -> None:
    """karpathy/nanochat `tasks/common.py`, `render_mc`: the letter after the choice, without a space."""
    shown = {asked(row): row for row in everywhere("choices")}
    pattern = re.compile(
        r"Multiple Choice question: (?s:.+?)\n- .+=A\n- .+=B\n- .+=C\n- .+=D\n\n"
        r"Respond only with the letter of the correct answer\."
    )
    assert [text for text in shown if not pattern.fullmatch(text)] == []
    assert all(row["choices"] == ["A", "B", "C", "D"] and reply(row) in "ABCD" for row in shown.values())


def shown_choices(row: dict[str, Any]) -> dict[str, str]:
    """Return the choices of a question by letter."""
    return {letter: choice for choice, letter in re.findall(r"^- (.+)=([A-D])$", asked(row), re.MULTILINE)}


def test_the_two_forms_of_a_question_have_the_same_choices_in_the_same_split() -> None:
    for split in SPLITS:
        cloze = {asked(row): row for row in rows("choices_cloze", split)}
        assert len(cloze) == len(rows("choices", split))
        for row in rows("choices", split):
            (question,) = questions(row)
            assert list(shown_choices(row).values()) == cloze[question]["choices"]
            assert shown_choices(row)[reply(row)] == reply(cloze[question])
            assert row["subject"] == cloze[question]["subject"]


def test_the_place_of_the_right_letter_is_uniform() -> None:
    for split in SPLITS:
        letters = collections.Counter(reply(row) for row in rows("choices", split))
        assert all(is_share(letters[letter], letters.total(), 0.25) for letter in "ABCD"), letters


def test_the_right_choice_is_the_tables_value_and_the_others_are_values_of_other_subjects() -> None:
    known = facts.facts()
    capitals = {fact.subject: fact.value for fact in known if fact.relation == "capital"}
    symbols = {fact.subject: fact.value for fact in known if fact.relation == "symbol"}
    seen: collections.Counter[str] = collections.Counter()
    for row in everywhere("choices_cloze"):
        for form, table in (
            (r"Of all cities, which one is the capital of (.+)\?", capitals),
            (r"Of all symbols, which one is that of the element (.+)\?", symbols),
        ):
            if (match := re.fullmatch(form, asked(row))) and match[1] in table:
                seen[form] += 1
                assert reply(row) == table[match[1]]
                assert set(row["choices"]) <= set(table.values())
    assert len(seen) == 2
    assert min(seen.values()) > 40


def test_topics_are_many_and_tested() -> None:
    topics = collections.Counter(row["subject"] for row in rows("choices", "test"))
    assert len(topics) >= 15
    assert {"countries", "chemistry", "languages", "states", "computing", "fluid mechanics"} <= set(topics)


def test_mmlu_is_a_control_of_57_subjects_in_four_groups_with_a_test_split_alone() -> None:
    assert (rows("mmlu", "train"), rows("mmlu", "dev"), len(rows("mmlu", "test"))) == ([], [], 280)
    assert len({row["source"] for row in rows("mmlu", "test")}) == 57
    groups = collections.Counter(row["subject"] for row in rows("mmlu", "test"))
    assert groups == {"stem": 92, "humanities": 64, "other": 64, "social_sciences": 60}
    (row,) = [
        row for row in rows("mmlu", "test") if "Find all c in Z_3 such that Z_3[x]/(x^2 + c) is a field." in asked(row)
    ]
    assert asked(row).endswith(
        "is a field.\n- 0=A\n- 1=B\n- 2=C\n- 3=D\n\nRespond only with the letter of the correct answer."
    )
    assert (reply(row), row["subject"], row["source"]) == ("B", "stem", "mmlu abstract_algebra")
    letters = collections.Counter(map(reply, rows("mmlu", "test")))
    assert all(is_share(letters[letter], 280, 0.25) for letter in "ABCD"), letters


# Chat and identity


def test_chat_has_one_or_two_exchanges_and_every_kind_of_text() -> None:
    lengths = collections.Counter(len(row["messages"]) // 2 for row in everywhere("chat"))
    assert set(lengths) == {1, 2}
    assert lengths[2] > 250
    dialogue = [row for row in everywhere("chat") if row["source"].startswith("chatterbot ")]
    assert len({row["source"] for row in dialogue}) == 20  # the profile is a part of identity
    assert len(dialogue) > 1_000
    long_form = {row["conversations"][0] for split in SPLITS for row in TEXT.read("long_form", split)}
    assert sum(asked(row) in long_form for row in everywhere("chat")) > 500
    assert ("Tell me a joke", "I never forget a face, but in your case I'll make an exception.") in {
        (asked(row), row["messages"][1]["content"]) for row in dialogue
    }


def test_alternative_replies_are_replies_and_a_dialogue_is_said_in_turn() -> None:
    pairs = [
        (row["messages"][number]["content"], row["messages"][number + 1]["content"])
        for row in everywhere("chat")
        for number in range(0, len(row["messages"]), 2)
    ]
    assert ("What is a computer?", "The thing you're using to talk to me is a computer.") in pairs
    assert ("Good morning, how are you?", "I am doing well, how about you?") in pairs
    assert ("I'm also good.", "That's good to hear.") in pairs
    assert all(user.strip() and answer.strip() for user, answer in pairs)


def test_the_assistant_says_who_it_is() -> None:
    said = {(asked(row), row["messages"][1]["content"]) for row in everywhere("identity")}
    named = {reply for question, reply in said if question == "What is your name?"}
    assert named
    assert all("Midstudy" in reply for reply in named)
    assert ("Who is your boss", "I like to think of myself as self-employed.") in said
    by_length = collections.Counter(len(row["messages"]) for row in everywhere("identity"))
    assert set(by_length) == {2, 4}


def test_the_prompts_are_four_of_test_alone_with_the_replies_that_their_source_shows() -> None:
    assert [len(rows("prompts", split)) for split in SPLITS] == [0, 0, 4]
    assert {asked(row): reply(row) for row in rows("prompts", "test")} == {
        "Hello! How are you?": "I'm doing well, thanks! How about you?",
        "What is the capital of France?": "Paris",
        "If I have 5 apples and buy 3 more, how many do I have?": "5 + 3 = 8",
        "How many 'r' are in 'strawberry'?": "3",
    }


# The reader's table


def test_the_page_states_the_rows_and_characters_of_every_part() -> None:
    stated = dict(re.findall(r"^\| `(\w+)` \|.*\| ([\d, ]+ \| \d+) \|$", PAGE.read_text("utf-8"), re.MULTILINE))
    for part in builtin.CONVERSATIONS:
        characters = [len(plain_text(as_turns(row["messages"], part))) for row in everywhere(part)]
        counts = " ".join(f"{len(rows(part, split)):,}" for split in SPLITS)
        assert stated[part] == f"{counts} | {round(sum(characters) / len(characters))}"


# Tokens


def test_a_control_is_tokenised_without_any_training_item(tmp_path: Path) -> None:
    from midstudy.data.tokenizer import save_tokenizer, train_tokenizer

    folder = tmp_path / "tokenizer"
    folder.mkdir()
    text = [plain_text(as_turns(row["messages"], "mmlu")) for row in rows("sums", "dev")]
    save_tokenizer(train_tokenizer(text, vocab_size=300, special_tokens=CONVERSATION_TOKENS), folder)
    tokenizer = Tokenizer(
        corpus=Corpus(name="sums", source=resolve_source("wheels", name="sums", folder="sums", is_task=False)),
        vocab_size=300,
        max_bytes=10_000,
        special_tokens=CONVERSATION_TOKENS,
    )
    task = Task(name="mmlu", source=resolve_source("wheels", name="mmlu", folder="mmlu", is_task=True))
    metrics = make_tokens(TokenizedData(data=task, tokenizer=tokenizer), folder, tmp_path)
    assert (metrics["train_documents"], metrics["dev_documents"], metrics["test_documents"]) == (0, 0, 280)
