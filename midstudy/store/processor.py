"""Identify the processor as far as it affects training speed."""

from __future__ import annotations

import functools
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""CPU flags of x86 (the first two) and ARM, as Linux names them."""

_CEILINGS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
_CEILINGS_WITH_BFLOAT16 = ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10")


@dataclass(frozen=True)
class Processor:
    """A processor: its model name, and whether it has instructions for bfloat16 products."""

    name: str
    has_bfloat16: bool


@functools.cache
def this_processor() -> Processor:
    """Return this machine's processor as PyTorch's kernels use it."""
    try:
        cpuinfo = _CPUINFO.read_text("utf-8", errors="replace")
    except OSError:  # not Linux
        cpuinfo = ""
    return processor_of(cpuinfo, os.environ)


def processor_of(cpuinfo: str, environment: Mapping[str, str]) -> Processor:
    """Return the processor described by the text of Linux's `/proc/cpuinfo`.

    Instructions that ONEDNN_MAX_CPU_ISA disables in oneDNN, PyTorch's matrix library, count as missing.
    """
    facts: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        facts.setdefault(key.strip(), value.strip())
    name = facts.get("model name") or " ".join(facts[key] for key in ("CPU implementer", "CPU part") if key in facts)
    flags = {*facts.get("flags", "").split(), *facts.get("Features", "").split()}
    ceilings = [environment[name].upper() for name in _CEILINGS if environment.get(name)]
    is_allowed = all(any(word in ceiling for word in _CEILINGS_WITH_BFLOAT16) for ceiling in ceilings)
    return Processor(name=name or platform.processor(), has_bfloat16=bool(flags & _BFLOAT16_FLAGS) and is_allowed)
