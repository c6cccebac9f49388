"""Identify the processor: its name, and whether bfloat16 is native or emulated."""

from __future__ import annotations

import pytest

from midstudy.store.environment import describe_environment
from midstudy.store.processor import Processor, processor_of, this_processor

X86 = "processor\t: 0\nvendor_id\t: GenuineIntel\nmodel name\t: {name}\nflags\t\t: fpu avx512f {flags}\n\nprocessor\t: 1\n"
SKYLAKE = X86.format(name="Xeon 6154", flags="avx512vl avx512bw")
COOPER_LAKE = X86.format(name="Xeon 8380H", flags="avx512vl avx512_bf16")
SAPPHIRE_RAPIDS = X86.format(name="Xeon 8480", flags="avx512_bf16 amx_bf16 amx_tile")
GRAVITON = "BogoMIPS : 2100\nFeatures : fp asimd {flags}\nCPU implementer : 0x41\nCPU part : 0xd40\n"


@pytest.mark.parametrize(
    ("cpuinfo", "name", "has_bfloat16"),
    [
        (SKYLAKE, "Xeon 6154", False),
        (COOPER_LAKE, "Xeon 8380H", True),
        (SAPPHIRE_RAPIDS, "Xeon 8480", True),
        (GRAVITON.format(flags="bf16 i8mm"), "0x41 0xd40", True),
        (GRAVITON.format(flags="atomics"), "0x41 0xd40", False),
        (X86.format(name="with bf16 in its name", flags="avx2"), "with bf16 in its name", False),
    ],
)
def test_instructions_for_bfloat16_are_read_from_cpuinfo(cpuinfo: str, name: str, has_bfloat16: bool) -> None:
    assert processor_of(cpuinfo, {}) == Processor(name, has_bfloat16)


@pytest.mark.parametrize(
    ("environment", "has_bfloat16"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "avx512_core_vnni"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        ({"DNNL_MAX_CPU_ISA": "AVX512_CORE"}, False),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"}, True),
        ({"ONEDNN_MAX_CPU_ISA": "DEFAULT"}, True),
        ({"ONEDNN_MAX_CPU_ISA": ""}, True),
    ],
)
def test_onednn_settings_can_disable_instructions(environment: dict[str, str], has_bfloat16: bool) -> None:
    assert processor_of(SAPPHIRE_RAPIDS, environment).has_bfloat16 == has_bfloat16
    assert not processor_of(SKYLAKE, environment).has_bfloat16, "a setting cannot add missing instructions"


def test_an_empty_cpuinfo_means_no_bfloat16() -> None:
    assert not processor_of("", {}).has_bfloat16


def test_the_environment_of_records_names_the_processor() -> None:
    environment = describe_environment()
    assert (environment["cpu"], environment["cpu_has_bfloat16"]) == (this_processor().name, this_processor().has_bfloat16)
