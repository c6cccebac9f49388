"""`midstudy sample` and `midstudy chat` on trained states."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from builders.chat_study import chat_study, write_chat
from builders.small_study import make_study, small_study, write_text

from midstudy.cli.main import main
from midstudy.recipe.stage import stage_id
from midstudy.store.store import Store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    write_text(folder)
    write_chat(folder)
    store = Store.open(folder / "store", create=True)
    make_study(store, chat_study(folder))
    make_study(store, small_study(folder, starts=()))
    return folder / "store"


@pytest.fixture(scope="module")
def state(store: Path) -> str:
    return stage_id(chat_study(store.parent).arms[0].curriculum.state())


def run(store: Path, *arguments: str) -> int:
    return main([*arguments, "--store", str(store), "--study", "chat"])


def test_a_prompt_is_continued_the_same_way_each_time(store: Path, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        assert run(store, "sample", state, "--prompt", "time year", "--tokens", "5") == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].startswith("time year│")


def test_samples_have_their_tokens_and_depend_on_the_seed(
    store: Path, state: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def sampled(seed: str) -> list[dict]:
        options = ("--tokens", "6", "--temperature", "1", "--top-k", "20", "--samples", "3", "--seed", seed, "--json")
        assert run(store, "sample", state, "--prompt", "time", "--prompt", "year", *options) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["stage"] == state
        samples: list[dict] = found["samples"]
        return samples

    first = sampled("1")
    assert [(row["prompt"], row["sample"]) for row in first] == [(p, n) for p in ("time", "year") for n in range(3)]
    assert all(1 <= len(row["tokens"]) == len(row["is_forced"]) <= 6 for row in first)
    assert sampled("1") == first
    assert sampled("2") != first


def test_the_assistant_answers_each_line_with_all_before_it(
    store: Path, state: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("time year people\nworld school state\n\n"))
    assert run(store, "chat", state, "--tokens", "4") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [lines[0], lines[2]] == ["> time year people", "> world school state"]
    assert run(store, "sample", state, "--prompt", "time year people", "--as-user", "--tokens", "4") == 0
    assert capsys.readouterr().out.splitlines()[1] == lines[1]


def test_a_state_without_conversations_cannot_chat(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = stage_id(small_study(store.parent, starts=()).arms[0].curriculum.state())
    assert main(["sample", plain, "--prompt", "a", "--as-user", "--store", str(store), "--study", "small"]) == 2
    assert "expected the tokens of conversations, got one without <|user_start|>" in capsys.readouterr().err


def test_a_prompt_that_fills_the_context_is_an_error(store: Path, state: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(store, "sample", state, "--prompt", "time " * 200) == 2
    assert "midstudy sample: prompt 0: expected 1 to 63 tokens, got" in capsys.readouterr().err
