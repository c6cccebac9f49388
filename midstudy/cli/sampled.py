"""What `midstudy sample` and `midstudy chat` print."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Sequence

from midstudy.evaluate.generate import Decoding, Generated
from midstudy.run.sample import Speaker
from midstudy.store.store import Store


def _decoding(options: Namespace) -> Decoding:
    return Decoding(max_new_tokens=options.tokens, temperature=options.temperature, top_k=options.top_k, seed=options.seed)


def sample(store: Store, state_id: str, options: Namespace) -> int:
    """Print the continuations of every prompt; with --json, with their tokens."""
    speaker = Speaker.of(store, state_id)
    if options.as_user:
        prompts = [speaker.request(text, is_first=True) for text in options.prompt]
    else:
        prompts = [speaker.ids(text) for text in options.prompt]
    rows = speaker.continued(prompts, _decoding(options), num_samples=options.samples)
    if options.json:
        found = [
            {
                "prompt": options.prompt[row.item],
                "sample": row.sample,
                "text": speaker.text(row.tokens),
                "tokens": row.tokens,
                "is_forced": row.is_forced,
                "is_finished": row.is_finished,
            }
            for row in rows
        ]
        print(json.dumps({"stage": state_id, "samples": found}, indent=1, ensure_ascii=False))
        return 0
    for row in rows:
        said = speaker.text(row.tokens) + ("" if row.is_finished else " …")
        prompt = options.prompt[row.item]
        print(f"> {prompt}\n{said}\n" if options.as_user else f"{prompt}│{said}\n")
    return 0


def chat(store: Store, state_id: str, options: Namespace) -> int:
    """Answer each line of standard input, with all before it as context; an empty line ends the conversation.

    Raises:
        ValueError: the state was not trained on conversations, or the conversation fills its context.
    """
    speaker, decoding = Speaker.of(store, state_id), _decoding(options)
    history: list[int] = []
    while True:
        print("> ", end="", flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return 0
        if not sys.stdin.isatty():
            print(line)
        history += speaker.request(line, is_first=not history)
        shown = ""

        def show(rows: Sequence[Generated]) -> None:
            nonlocal shown
            text = speaker.text(rows[0].tokens)
            if not text.endswith("\N{REPLACEMENT CHARACTER}"):  # a character of which only some bytes are there
                print(text.removeprefix(shown), end="", flush=True)
                shown = text

        [reply] = speaker.continued([history], decoding, on_tokens=show)
        print("" if reply.is_finished else " …")
        history += reply.tokens
        if reply.tokens[-1] not in speaker.ends:
            history.append(speaker.end_of_turn)
