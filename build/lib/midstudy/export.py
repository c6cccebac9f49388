"""Writes a finished state as a folder that transformers loads: weights, configuration, tokenizer, and where it came from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file

from midstudy.data.tokenizer import END_OF_TEXT, FILE_NAME
from midstudy.execute.state import CHECKPOINT_FOLDER
from midstudy.files.errors import StoreError
from midstudy.model.config import huggingface_config
from midstudy.model.huggingface import to_huggingface
from midstudy.recipe.curriculum import Curriculum, Start, State
from midstudy.recipe.data import Task
from midstudy.recipe.decode import decode
from midstudy.recipe.phase import Phase
from midstudy.recipe.stage import stage_id
from midstudy.recipe.start_weights import Average
from midstudy.store.record import Record
from midstudy.store.store import Store
from midstudy.store.whole_folder import write_folder
from midstudy.train import checkpoint


def export_huggingface(
    store: Store, stage: str, folder: Path, *, commands: Sequence[str], losses: Mapping[str, float]
) -> None:
    """Write the state `stage` to `folder` for `AutoModelForCausalLM` and `AutoTokenizer`; needs no transformers.

    Tensors are those of the checkpoint, in its type. The folder appears whole or not at all. `midstudy.json` holds the
    expanded recipe, the model card tells it.

    Args:
        folder: a new one.
        commands: what the card says made the state and the folder.
        losses: nats per token of the state's evaluations, by name.

    Raises:
        ValueError: there is something at `folder` already, it cannot be written, or the checkpoint is damaged.
        StoreError: the stage or its tokenizer is not finished, or the tokenizer was exchanged on disk.
    """
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder}: exists already; allowed: a new folder. Name another with --output.")
    record = store.record(stage)
    recipe: State = decode(record.recipe)
    start = recipe.curriculum.start
    tokenizer = stage_id(start.tokenizer)
    if not store.has(tokenizer):
        raise StoreError(f"stage {tokenizer}: the tokenizer of this state is not finished; run the study first.")
    store.require_unchanged(tokenizer)
    state = checkpoint.read(store.published_folder(stage) / CHECKPOINT_FOLDER, with_optimizer=False)

    def write(temporary: Path) -> None:
        save_file(to_huggingface(state.weights), temporary / "model.safetensors", metadata={"format": "pt"})
        torch_type = str(state.weights["head.weight"].dtype).removeprefix("torch.")
        _write_json(temporary / "config.json", {**huggingface_config(start.model), "torch_dtype": torch_type})
        shutil.copyfile(store.published_folder(tokenizer) / FILE_NAME, temporary / FILE_NAME)
        _write_json(temporary / "tokenizer_config.json", _tokenizer_config(start))
        _write_json(temporary / "midstudy.json", {"id": record.id, "label": record.label, "recipe": record.recipe})
        card = _model_card(store, record, recipe, folder=folder, commands=commands, losses=losses)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        shutil.copymode(temporary / "config.json", temporary / "model.safetensors")  # safetensors lets the owner alone read

    try:
        write_folder(folder, write)
    except (OSError, SafetensorError) as error:  # safetensors has an error of its own for a full disk
        raise ValueError(
            f"{folder}: cannot be written ({error}). Free space or fix the permissions, or name another with --output."
        ) from error


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _tokenizer_config(start: Start) -> dict[str, Any]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "model_max_length": start.model.max_seq_len,
        "clean_up_tokenization_spaces": False,
    }


def _model_card(
    store: Store, record: Record, recipe: State, *, folder: Path, commands: Sequence[str], losses: Mapping[str, float]
) -> str:
    model = recipe.curriculum.start.model
    lines = [
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [gpt_neox, midstudy]\n---",
        f"# {record.label}",
        f"State `{record.id}` of a midstudy study: a GPT-NeoX model of {model.num_parameters:,} parameters "
        f"({model.num_layers} layers, width {model.width}, context {model.max_seq_len:,}), kept in {recipe.precision}.",
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{folder.name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder.name}")\n```',
        "Documents end with `<|endoftext|>` (id 0); prompts begin without it.",
        "## How it was trained",
        _beginning(recipe.curriculum.start),
        _phases(recipe.curriculum),
    ]
    if losses:
        lines += ["## Losses", "\n".join(f"- {name}: {loss:.4f} nats per token" for name, loss in losses.items())]
    lines += [
        "## Lineage",
        "\n".join(_lineage(store, record)),
        "The whole recipe is in `midstudy.json`. The state and this folder were made by",
        "\n".join(f"    {command}" for command in commands),
    ]
    return "\n\n".join(lines) + "\n"


def _beginning(start: Start) -> str:
    tokenizer = f"The tokenizer has {start.tokenizer.vocab_size:,} ids."
    if isinstance(start.weights, Average):
        return f"Weights begin as the uniform mean of {len(start.weights.states)} states (see the lineage). {tokenizer}"
    if start.weights is not None:
        return f"Weights begin as the release {start.weights} ({start.weights.source}). {tokenizer}"
    return f"Weights were drawn from seed {start.seed}. {tokenizer}"


def _phases(curriculum: Curriculum) -> str:
    if not curriculum.stretches:
        return "No step was trained after that."
    rows = ["| phase | steps | data | batch | learning rate | precision | seed |", "|---|---|---|---|---|---|---|"]
    for stretch in curriculum.stretches:
        phase = stretch.phase
        data = _data(phase, stretch.stop_step - stretch.start_step)
        rates = [curriculum.curve.lr(step) for step in range(stretch.start_step, stretch.stop_step)]
        rows.append(
            f"| {phase.name} | {stretch.start_step} to {stretch.stop_step} | {data} "
            f"| {phase.num_sequences} × {phase.seq_len} tokens | {min(rates):.3g} to {max(rates):.3g} | {phase.precision} "
            f"| {phase.seed} |"
        )
    return "\n".join(rows)


def _data(phase: Phase, num_steps: int) -> str:
    """What `num_steps` steps of a phase read, and what of it weighs less or is masked."""
    if isinstance(phase.data, Task):
        prompts = f" (prompts weigh {phase.prompt_weight:g})" if phase.prompt_weight else ""
        return f"task {phase.data.name}{prompts}"
    words = []
    for corpus in phase.data.corpora:
        first, mean = phase.data.mean_share(corpus, 0), phase.data.mean_share(corpus, num_steps)
        last = 2 * mean - first  # a share changes linearly along a stretch
        ends = [f"{float(100 * share):.4g} %" for share in dict.fromkeys((first, last))]
        weight = phase.data.loss_weight(corpus)
        words.append(f"{' → '.join(ends)} {corpus.name}" + (f" (loss weight {float(weight):.4g})" if weight != 1 else ""))
    return ", ".join(words) + (", attention within documents" if phase.document_mask else "")


def _lineage(store: Store, record: Record) -> list[str]:
    """The states and data that this one was made from, nearest first, each once."""
    found: dict[str, str] = {record.id: f"- `{record.id}` {record.label}"}
    pending = [record]
    for one in pending:
        for parent in one.parents:
            if parent in found:
                continue
            if not store.has(parent):
                found[parent] = f"- `{parent}` (not in this store)"
                continue
            above = store.record(parent)
            found[parent] = f"- `{parent}` {above.label}"
            pending.append(above)
    return list(found.values())
