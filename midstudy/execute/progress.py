"""Progress of tokenisation: a line in the job's log every few seconds."""

from __future__ import annotations

import time

from midstudy.data.shards import Shard, Tokenised

INTERVAL_S = 5.0


class TokenisingProgress:
    """Counts the documents, bytes and tokens of a data set's splits, and prints them regularly.

    The rate, and the remaining time derived from it, covers tokenisation only, not reused shards or skipped text. The
    remaining time is printed if the fraction of the split read so far is known.
    """

    def __init__(self, data_name: str) -> None:
        self._data_name = data_name
        self._printed_at_s = time.monotonic()
        self.shards_reused = 0

    def begin(self, split: str) -> None:
        """Start a split."""
        self._split, self._share_read = split, 0.0
        self._num_documents, self._num_tokens, self._text_bytes = 0, 0, 0
        self._since: tuple[float, int, float] | None = None  # time, tokens and share when tokenisation started

    def on_read(self, share: float) -> None:
        self._share_read = share
        self._print()

    def on_reused(self, shard: Shard) -> None:
        self.shards_reused += 1
        self._count(shard.num_documents, shard.num_tokens, shard.text_bytes)
        self._since = None

    def on_tokenised(self, chunk: Tokenised) -> None:
        self._count(len(chunk.lengths), len(chunk.tokens), chunk.text_bytes)
        if self._since is None:
            self._since = (time.monotonic(), self._num_tokens, self._share_read)

    def _count(self, num_documents: int, num_tokens: int, text_bytes: int) -> None:
        self._num_documents += num_documents
        self._num_tokens += num_tokens
        self._text_bytes += text_bytes
        self._print()

    def _print(self) -> None:
        now_s = time.monotonic()
        if now_s - self._printed_at_s < INTERVAL_S:
            return
        self._printed_at_s = now_s
        facts = [
            f"{self._num_documents:,} documents",
            f"{self._text_bytes / 1e6:,.1f} MB of text",
            f"{self._num_tokens:,} tokens",
        ]
        if self._since is not None and now_s > self._since[0]:
            spent_s = now_s - self._since[0]
            facts.append(f"{(self._num_tokens - self._since[1]) / spent_s:,.0f} tokens/s")
            if self._share_read > self._since[2]:
                left_s = (1 - self._share_read) / (self._share_read - self._since[2]) * spent_s
                facts.append(f"{self._share_read:.0%} read, about {left_s / 60:.1f} minutes left")
        elif self._share_read:
            facts.append(f"{self._share_read:.0%} read")
        print(f"{self._data_name} {self._split}: {', '.join(facts)}", flush=True)
