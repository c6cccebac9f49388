"""Export a finished state as a folder for transformers: weights, configuration, tokenizer, model card and recipe."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from safetensors import SafetensorError
from safetensors.torch import save_file

from midstudy.data.chat_template import CHAT_TEMPLATE
from midstudy.data.tokenizer import FILE_NAME
from midstudy.execute.state import CHECKPOINT_FOLDER
from midstudy.files.errors import StoreError
from midstudy.model.config import huggingface_config
from midstudy.model.huggingface import to_huggingface
from midstudy.recipe.curriculum import Curriculum, Start, State
from midstudy.recipe.data import CONVERSATION_TOKENS, Task, end_of_text_id
from midstudy.recipe.decode import decode
from midstudy.recipe.phase import Phase
from midstudy.recipe.rollouts import Rollouts
from midstudy.recipe.stage import stage_id
from midstudy.recipe.start_weights import Average
from midstudy.recipe.task_mixture import TaskMixture
from midstudy.store.record import Record
from midstudy.store.store import Store
from midstudy.store.whole_folder import write_folder
from midstudy.train import checkpoint


def export_huggingface(
    store: Store, stage: str, folder: Path, *, commands: Sequence[str], losses: Mapping[str, float]
) -> None:
    """Write the state `stage` to `folder` for `AutoModelForCausalLM` and `AutoTokenizer`, without using transformers.

    Tensors keep the checkpoint's type. The folder appears complete or not at all. `midstudy.json` holds the expanded
    recipe, which the model card summarises. A tokenizer that adds tokens to a text, as Llama 3's adds its beginning, is
    written without them, since the state was trained on texts without.

    Args:
        stage: id of the stage.
        folder: a new folder.
        commands: the commands that made the state and the folder, for the model card.
        losses: losses of the state's evaluations in nats per token, by name.

    Raises:
        ValueError: `folder` exists or cannot be written, or the checkpoint is damaged.
        StoreError: the stage or its tokenizer is not finished, or the tokenizer's files were changed.
    """
    if folder.exists() or folder.is_symlink():
        raise ValueError(f"{folder}: expected a new folder, got one that exists. Name another with --output.")
    record = store.record(stage)
    recipe: State = decode(record.recipe)
    start = recipe.curriculum.start
    tokenizer = stage_id(start.tokenizer)
    if not store.has(tokenizer):
        raise StoreError(f"stage {tokenizer}: the tokenizer of this state is not finished; run the study first.")
    store.require_unchanged(tokenizer)
    content = (store.published_folder(tokenizer) / FILE_NAME).read_bytes()
    end_id = end_of_text_id(start.tokenizer)
    end = tokenizers.Tokenizer.from_buffer(content).id_to_token(end_id)
    assert end is not None  # the recipe's tokenizer has it
    state = checkpoint.read(store.published_folder(stage) / CHECKPOINT_FOLDER, with_optimizer=False)

    def write(temporary: Path) -> None:
        save_file(to_huggingface(state.weights, start.model), temporary / "model.safetensors", metadata={"format": "pt"})
        config = huggingface_config(start.model, end_of_text_id=end_id)
        torch_type = str(state.weights["embedding.weight"].dtype).removeprefix("torch.")
        _write_json(temporary / "config.json", {**config, "torch_dtype": torch_type})
        (temporary / FILE_NAME).write_bytes(_without_added_tokens(content))
        _write_json(temporary / "tokenizer_config.json", _tokenizer_config(start, end))
        _write_json(temporary / "midstudy.json", {"id": record.id, "label": record.label, "recipe": record.recipe})
        card = _model_card(store, record, recipe, folder=folder, commands=commands, losses=losses, end=end)
        (temporary / "README.md").write_text(card, encoding="utf-8")
        # safetensors makes its file readable for the owner only.
        shutil.copymode(temporary / "config.json", temporary / "model.safetensors")

    try:
        write_folder(folder, write)
    except (OSError, SafetensorError) as error:  # safetensors has a separate error for a full disk
        raise ValueError(
            f"{folder}: cannot be written ({error}). Free space, fix the permissions, or name another with --output."
        ) from error


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _without_added_tokens(content: bytes) -> bytes:
    """Return a `tokenizer.json` that adds no token to a text; unchanged if it adds none."""
    if not tokenizers.Tokenizer.from_buffer(content).num_special_tokens_to_add(is_pair=False):
        return content
    facts = json.loads(content)
    post = facts["post_processor"]
    kept = [one for one in post.get("processors", [post]) if one["type"] == "ByteLevel"]  # the only one without tokens
    facts["post_processor"] = kept[0] if kept else None
    return json.dumps(facts, indent=2, ensure_ascii=False).encode("utf-8")


def _tokenizer_config(start: Start, end: str) -> dict[str, Any]:
    is_for_chat = {*CONVERSATION_TOKENS} <= {*start.tokenizer.special_tokens}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": end,
        "eos_token": end,
        "unk_token": end,
        "model_max_length": start.model.max_seq_len,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": CHAT_TEMPLATE} if is_for_chat else {}),
    }


def _model_card(
    store: Store,
    record: Record,
    recipe: State,
    *,
    folder: Path,
    commands: Sequence[str],
    losses: Mapping[str, float],
    end: str,
) -> str:
    model = recipe.curriculum.start.model
    config = huggingface_config(model)
    (architecture,) = config["architectures"]
    lines = [
        f"---\nlibrary_name: transformers\npipeline_tag: text-generation\ntags: [{config['model_type']}, midstudy]\n---",
        f"# {record.label}",
        f"State `{record.id}` of a midstudy study: a {architecture} of {model.num_parameters:,} parameters "
        f"({model.num_layers} layers, width {model.width}, context {model.max_seq_len:,}), stored in {recipe.precision}.",
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{folder.name}")\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder.name}")\n```',
        f"Documents end with `{end}` (id {end_of_text_id(recipe.curriculum.start.tokenizer)}); prompts start without it.",
        "## How it was trained",
        _start(recipe.curriculum.start),
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


def _start(start: Start) -> str:
    tokenizer = f"The tokenizer has {start.tokenizer.vocab_size:,} ids."
    if isinstance(start.weights, Average):
        num_states = len(start.weights.states)
        return f"The initial weights are the uniform mean of {num_states} states (see the lineage). {tokenizer}"
    if start.weights is not None:
        return f"The initial weights are those of the release {start.weights} ({start.weights.source}). {tokenizer}"
    return f"The initial weights were drawn from seed {start.seed}. {tokenizer}"


def _phases(curriculum: Curriculum) -> str:
    if not curriculum.stretches:
        return "The weights were not trained further."
    rows = ["| phase | steps | data | batch | learning rate | precision | seed |", "|---|---|---|---|---|---|---|"]
    for placed in curriculum.stretches:
        phase = placed.phase
        data = _data(phase, placed.stop_step - placed.start_step)
        rates = [curriculum.curve.lr(step) for step in range(placed.start_step, placed.stop_step)]
        rows.append(
            f"| {phase.name} | {placed.start_step} to {placed.stop_step} | {data} "
            f"| {phase.num_sequences} × {phase.seq_len} tokens | {min(rates):.3g} to {max(rates):.3g}{_groups(phase)} "
            f"| {phase.precision} "
            f"| {phase.seed} |"
        )
    return "\n".join(rows)


def _groups(phase: Phase) -> str:
    """Describe what the curve multiplies: the rate of each parameter group, and which one Muon trains."""
    rates = (
        f"{group.lr_factor:.3g} for {group.select}{' (Muon)' if group.rule else ''}" for group in phase.optimizer.groups
    )
    return f" × {', '.join(rates)}" if phase.optimizer.groups else ""


def _data(phase: Phase, num_steps: int) -> str:
    """Describe what `num_steps` steps of a phase read, with loss weights and masks."""
    if isinstance(phase.data, TaskMixture):
        return f"tasks {phase.data}"
    if isinstance(phase.data, Task):
        prompts = f" (prompt weight {phase.prompt_weight:g})" if phase.prompt_weight else ""
        return f"task {phase.data.name}{prompts}"
    if isinstance(phase.data, Rollouts):
        tool = ", with the calculator" if phase.data.tool else ""
        return f"rollouts of {phase.data.name}, {phase.data.num_samples} answers a prompt, {phase.data.score}{tool}"
    words = []
    for corpus in phase.data.corpora:
        first, mean = phase.data.mean_share(corpus, 0), phase.data.mean_share(corpus, num_steps)
        last = 2 * mean - first  # shares change linearly along a placed phase
        ends = [f"{float(100 * share):.4g} %" for share in dict.fromkeys((first, last))]
        weight = phase.data.loss_weight(corpus)
        words.append(f"{' → '.join(ends)} {corpus.name}" + (f" (loss weight {float(weight):.4g})" if weight != 1 else ""))
    return ", ".join(words) + (", attention within documents" if phase.document_mask else "")


def _lineage(store: Store, record: Record) -> list[str]:
    """Return lines for the state and everything that it was made from, nearest first, each once."""
    lines: dict[str, str] = {record.id: f"- `{record.id}` {record.label}"}
    pending = [record]
    for child in pending:
        for parent in child.parents:
            if parent in lines:
                continue
            if not store.has(parent):
                lines[parent] = f"- `{parent}` (not in this store)"
                continue
            parent_record = store.record(parent)
            lines[parent] = f"- `{parent}` {parent_record.label}"
            pending.append(parent_record)
    return list(lines.values())
