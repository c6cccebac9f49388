"""Pages of the documentation: commands exist with their options, links lead somewhere, and Python runs."""

from __future__ import annotations

import argparse
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from builders.markdown import PAGES, README, Block, blocks, commands, mentions, missing_lines, shape
from builders.places import REPOSITORY
from builders.releases import write_release
from builders.small_recipes import CODE, GENERAL, MATH, PYCODE, TOKENIZER, WORDS, phase, sft, start, with_muon

import midstudy.recipe
from midstudy.cli.main import _parser
from midstudy.data.release import released_start
from midstudy.plan.steps_of import StepsOf
from midstudy.recipe import Average, Cosine, Curriculum, Mixture, Packing, Source, Start, Task, llama
from midstudy.recipe.factors import Value
from midstudy.recipe.model import SIZES
from midstudy.studies.bridging.scale import Scale

_LINK = re.compile(r"(?<!`)!?\[[^\]]*\]\(([^)\s]+)\)")
MOST_LINES = 80


def _id(value: object) -> str:
    if isinstance(value, Path):
        return value.name
    return " ".join(value)[:60] if isinstance(value, list) else str(value)


@pytest.mark.parametrize(
    ("page", "arguments"), [(page, arguments) for page in PAGES for arguments in commands(page)], ids=_id
)
def test_every_command_line_parses(page: Path, arguments: list[str]) -> None:
    try:
        _parser().parse_args(arguments)
    except SystemExit as stopped:
        pytest.fail(f"{page.name}: midstudy {' '.join(arguments)}: status {stopped.code}")


@pytest.mark.parametrize(("page", "words"), [(page, words) for page in PAGES for words in mentions(page)], ids=_id)
def test_every_command_named_in_a_sentence_has_its_verb_and_options(page: Path, words: list[str]) -> None:
    verbs = next(action for action in _parser()._actions if isinstance(action, argparse._SubParsersAction)).choices
    assert words[0] in verbs
    known = verbs[words[0]]._option_string_actions
    assert [word for word in words if word.startswith("--") and word.partition("=")[0] not in known] == []


def test_commands_and_mentions_are_found() -> None:
    assert sum(len(commands(page)) for page in PAGES) > 30
    assert sum(len(mentions(page)) for page in PAGES) > 15
    with pytest.raises(SystemExit):
        _parser().parse_args(["plan", "x.py", "--sett", "a=1", "--no-such-option"])


@pytest.mark.parametrize("page", PAGES, ids=_id)
def test_every_relative_link_leads_to_a_file(page: Path) -> None:
    for link in _LINK.findall(page.read_text("utf-8")):
        if "://" not in link and not link.startswith("#"):
            assert (page.parent / unquote(link.partition("#")[0])).exists(), link


@pytest.mark.parametrize("page", [page for page in PAGES if page != README], ids=_id)
def test_every_page_is_reached_from_the_readme_and_answers_on_one_page(page: Path) -> None:
    assert f"(docs/{page.name})" in README.read_text("utf-8")
    if page.name != "tutorial.md":
        assert len(page.read_text("utf-8").splitlines()) <= MOST_LINES


def test_every_experiment_that_a_page_names_exists() -> None:
    for page in PAGES:
        for name in re.findall(r"\b((?:experiments|midstudy|tests|benchmarks|reports)/[\w/.-]*\w)", page.read_text("utf-8")):
            assert (REPOSITORY / name).exists(), f"{page.name}: {name}"


# Python


def python_of(page: str) -> list[Block]:
    return [block for block in blocks(REPOSITORY / "docs" / page) if block.language == "python"]


def names_of(page: str, **more: Any) -> dict[str, Any]:
    """Run the page's Python with the names of `midstudy.recipe` and return what it defines."""
    names = {name: getattr(midstudy.recipe, name) for name in midstudy.recipe.__all__} | more
    for block in python_of(page):
        exec(block.text, names)
    return names


def trunk(scale: Scale) -> Curriculum:
    return scale.pretrain(GENERAL, tokenizer=scale.tokenizer([GENERAL, CODE]), seed=0)


def test_the_curricula_of_the_page_on_training_can_be_planned() -> None:
    schedule = Cosine(peak_lr=1e-3, floor_lr=1e-5, warmup_steps=10, total_steps=9_000)
    pretrain = phase(Mixture.only(GENERAL), 9_000, schedule=schedule)
    given = {"start": start(), "pretrain": pretrain, "sft": sft(PYCODE), "general": GENERAL, "code": CODE, "math": MATH}
    names = names_of("training.md", **given)
    assert names["early"].state_id(6_000) == names["trunk"].state_id(6_000)
    assert names["rising"].num_steps == 9_000
    averaged = Start.averaged(Average.last(names["trunk"], num_states=4, every_steps=5))
    assert Curriculum.of(averaged, sft(PYCODE)).num_steps == 5


def test_the_phase_of_the_page_on_rewards_follows_fine_tuning() -> None:
    source = Source(kind="files", part="", revision="r1", fields=(("messages", "messages"),))
    first = start()
    tuned = Curriculum.of(replace(first, model=replace(first.model, max_seq_len=1024)), sft(PYCODE))
    names = names_of("reinforcement.md", task=Task(name="chat", source=source), tuned=tuned, optimizer=sft(PYCODE).optimizer)
    phase = names["learned"].stretches[-1].phase
    assert phase.num_sequences // phase.data.num_samples == 16


def test_a_sweep_and_a_measure_of_ones_own_are_as_the_page_on_variation_says() -> None:
    scale = Scale(size="nano")
    run = trunk(scale)
    names = names_of("vary.md")
    swept = names["sweep"](scale, run, CODE, weights=(0.1, 0.4), start_step=24)
    weights: list[Value] = [dict(one.factors)["weight"] for one in swept]
    assert weights == [0.1, 0.4]
    arm = names["with_loss_on"](scale, scale.finetune(run, PYCODE, seed=1), MATH)
    assert arm.measures[f"{MATH.name}_loss"].evaluation.data == MATH
    assert {"sft_loss", "general_loss"} < set(arm.measures)
    labelled = scale.pretrain(GENERAL, tokenizer=scale.tokenizer([GENERAL]), seed=0, loader="best_fit")
    assert dict(labelled.factors)["loader"] == "best_fit"


def test_a_rate_is_chosen_on_dev_as_the_page_on_rates_says() -> None:
    scale = Scale(size="nano")
    run = trunk(scale)
    arm = names_of("rates.md")["tuned"](scale, run, PYCODE, first_run=run, seed=1)
    choice = arm.choices["sft_peak_lr"]
    assert choice.values == (1e-3, 3e-3, 1e-2)
    assert choice.evaluation.split == "dev"


def test_a_stage_on_a_mixture_of_tasks_is_as_its_page_says() -> None:
    shared = {"optimizer": with_muon(), "precision": "fp32"}
    run = names_of("task-mixtures.md")["mid_stage"](StepsOf(), TOKENIZER, trunk(Scale(size="nano")), PYCODE, WORDS, shared)
    last = run.stretches[-1]
    packing = Packing.of(last.phase, TOKENIZER)
    assert last.phase.num_steps == StepsOf()(packing)
    assert run.curve.lr(last.start_step) == 0.02
    assert StepsOf().step_at(packing, 0.5) == last.phase.num_steps // 2


def test_a_run_goes_on_from_a_release_as_the_page_on_releases_says(tmp_path: Path) -> None:
    folder = str(write_release(tmp_path / "release"))
    names = names_of("release.md", released_start=released_start)
    scale = Scale(size=released_start(folder).model.name, total_steps=10, seq_len=32)
    run = names["trunk_of"](scale, GENERAL, release=folder, seed=3)
    assert dict(run.factors)["trunk_seed"] == 3
    assert run.start.weights.step == 71_000


def test_a_llama_is_trained_as_the_page_on_architectures_says() -> None:
    scale = Scale(size="llama-nano")
    run = names_of("architectures.md")["llama_trunk"](scale, GENERAL, tokenizer=TOKENIZER, seed=3)
    assert run.start.model == llama("nano", vocab_size=2_048, max_seq_len=scale.seq_len)
    assert dict(run.factors)["size"] == "llama-nano"


def test_sizes_that_pages_list_are_those_that_exist() -> None:
    assert "pico, nano, micro, 14m, 31m, 70m, 160m, 410m, 1b" in (REPOSITORY / "docs" / "cluster.md").read_text("utf-8")
    assert {"pico", "nano", "micro", "14m", "31m", "70m", "160m", "410m", "1b"} <= set(SIZES)


# How printed output is compared


def test_numbers_and_widths_may_differ_and_words_may_not() -> None:
    assert shape("code       +0.2440 ±0.0360  100 %") == shape("code  −0.1 ±0.02   7 %")
    assert missing_lines(["  steps    2,664 to train", "…", "done in …"], "steps 9 to train\nx\ndone in 3 s") == []
    assert missing_lines(["steps 1 to train"], "steps 9 to run") == ["steps 1 to train"]
    assert missing_lines(["b", "a"], "a\nb") == ["a"], "in order"
    assert shape("midtrain nano code20@24") == "midtrain nano code20@24", "a name is no number"
    assert shape("cost 58 s") == shape("cost 1.9 min")
