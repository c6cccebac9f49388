"""What the worker processes of a verb begin with."""

from __future__ import annotations

import signal


def leave_interrupts() -> None:
    """Ignore Ctrl-C, which also reaches the parent process; it ends this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
