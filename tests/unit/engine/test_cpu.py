"""What a CPU says of itself, what a container leaves of it, and the precision that follows."""

from dataclasses import replace
from pathlib import Path

import pytest

from fledge.engine import cgroups, cpu
from fledge.engine.cpu import CpuFeatures, choose_precision, inference_hint
from fledge.types import Precision

AVX2 = CpuFeatures(architecture="x86_64", avx2=True)
AVX512 = replace(AVX2, avx512=True)
VNNI = replace(AVX512, avx512_vnni=True)
BF16 = replace(VNNI, avx512_bf16=True)
AMX = replace(BF16, amx_bf16=True, amx_int8=True)
ARM = CpuFeatures(architecture="arm64", fp16=True)

CORE = "avx2 avx512f avx512dq avx512bw avx512vl"


def x86(flags: str, *, cores: int = 2, threads: int = 2) -> str:
    blocks = [
        f"processor\t: {core * threads + thread}\nvendor_id\t: GenuineIntel\n"
        f"model name\t: Intel(R) Xeon(R) CPU @ 2.00GHz\nphysical id\t: 0\ncore id\t\t: {core}\n"
        f"flags\t\t: fpu sse4_2 {flags}\npower management:\n"
        for core in range(cores)
        for thread in range(threads)
    ]
    return "\n".join(blocks)


ARM_TEXT = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd fphp asimdhp asimddp sve bf16 i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd40

processor\t: 1
Features\t: fp asimd fphp asimdhp asimddp sve bf16 i8mm
CPU implementer\t: 0x41
"""


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("avx", ()),
        ("avx2", ("avx2",)),
        ("avx2 avx512f avx512cd", ("avx2",)),
        (CORE, ("avx2", "avx512")),
        (f"{CORE} avx512_vnni", ("avx2", "avx512", "avx512_vnni")),
        (f"{CORE} avx512_vnni avx512_bf16", ("avx2", "avx512", "avx512_vnni", "avx512_bf16")),
        (f"{CORE} amx_bf16 amx_int8", ("avx2", "avx512")),
        (f"{CORE} amx_tile amx_bf16 amx_int8", ("avx2", "avx512", "amx_bf16", "amx_int8")),
    ],
)
def test_cpuinfo_of_x86_tells_the_features(flags: str, expected: tuple[str, ...]) -> None:
    assert cpu.parse_cpuinfo(x86(flags), "x86_64").features == expected


def test_cpuinfo_counts_cores_and_threads() -> None:
    found = cpu.parse_cpuinfo(x86("avx2", cores=4, threads=2), "x86_64")
    assert (found.physical_cores, found.logical_cores) == (4, 8)
    assert found.vendor == "GenuineIntel"
    assert found.model_name == "Intel(R) Xeon(R) CPU @ 2.00GHz"


def test_cpuinfo_of_arm_tells_its_maker_and_half_precision() -> None:
    found = cpu.parse_cpuinfo(ARM_TEXT, "aarch64")
    assert (found.vendor, found.architecture, found.fp16) == ("Arm", "arm64", True)
    assert (found.physical_cores, found.logical_cores) == (2, 2)
    assert found.is_arm
    assert found.needs_whole_rows
    assert not found.has_native_bf16


def test_an_empty_cpuinfo_is_a_cpu_without_features() -> None:
    assert cpu.parse_cpuinfo("", "riscv64").features == ()


def test_sysctl_of_a_mac_with_apple_silicon() -> None:
    text = (
        "hw.physicalcpu: 8\nhw.logicalcpu: 8\nhw.memsize: 17179869184\n"
        "hw.optional.arm.FEAT_FP16: 1\nmachdep.cpu.brand_string: Apple M2\n"
    )
    found = cpu.parse_sysctl(text, "arm64")
    assert found == CpuFeatures(
        vendor="Apple",
        model_name="Apple M2",
        architecture="arm64",
        fp16=True,
        physical_cores=8,
        logical_cores=8,
        memory_bytes=2**34,
    )


def test_sysctl_of_a_mac_with_intel() -> None:
    text = (
        "hw.physicalcpu: 8\nhw.logicalcpu: 16\nmachdep.cpu.vendor: GenuineIntel\n"
        "machdep.cpu.features: FPU SSE4.2 AVX1.0\n"
        "machdep.cpu.leaf7_features: AVX2 AVX512F AVX512DQ AVX512BW AVX512VL AVX512VNNI\n"
    )
    found = cpu.parse_sysctl(text, "x86_64")
    assert found.features == ("avx2", "avx512", "avx512_vnni")
    assert (found.vendor, found.physical_cores, found.logical_cores) == ("GenuineIntel", 8, 16)


@pytest.mark.parametrize(
    ("cap", "expected"),
    [
        ("sse41", CpuFeatures(architecture="x86_64")),
        ("AVX2", AVX2),
        ("AVX2_VNNI_2", AVX2),
        ("avx512_core", AVX512),
        ("AVX512_CORE_VNNI", VNNI),
        ("AVX512_CORE_BF16", BF16),
        ("AVX512_CORE_FP16", BF16),
        ("AVX512_CORE_AMX", AMX),
        ("ALL", AMX),
        ("DEFAULT", AMX),
        ("NONSENSE", AMX),
        ("", AMX),
    ],
)
def test_a_cap_on_instructions_leaves_what_onednn_would_use(
    cap: str, expected: CpuFeatures
) -> None:
    capped = cpu.cap_features(AMX, cpu.isa_cap({"ONEDNN_MAX_CPU_ISA": cap}))
    assert replace(capped, isa_cap=None) == expected


def test_a_cap_adds_no_feature_and_does_not_concern_arm() -> None:
    assert cpu.cap_features(AVX2, "AVX512_CORE_BF16").features == ("avx2",)
    assert cpu.cap_features(ARM, "AVX2") == ARM


def test_the_old_name_of_the_cap_counts_after_the_new_one() -> None:
    assert cpu.isa_cap({"DNNL_MAX_CPU_ISA": "avx2"}) == "AVX2"
    both = {"DNNL_MAX_CPU_ISA": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}
    assert cpu.isa_cap(both) == "AVX512_CORE"


@pytest.mark.parametrize(
    ("requested", "features", "chosen", "is_fallback"),
    [
        ("auto", AVX2, "fp32", False),
        ("auto", VNNI, "fp32", False),
        ("auto", BF16, "bf16", False),
        ("auto", AMX, "bf16", False),
        ("auto", ARM, "fp32", False),
        ("fp32", AMX, "fp32", False),
        ("bf16", VNNI, "fp32", True),
        ("bf16", AVX2, "fp32", True),
        ("bf16", ARM, "fp32", True),
        ("bf16", BF16, "bf16", False),
        ("int8", AVX2, "fp32", True),
        ("int8", AVX512, "int8", False),
        ("int8", VNNI, "int8", False),
        ("int8", AMX, "int8", False),
        ("int8", ARM, "int8", False),
    ],
)
def test_the_precision_is_one_that_the_cpu_computes_natively(
    requested: Precision, features: CpuFeatures, chosen: str, is_fallback: bool
) -> None:
    decision = choose_precision(requested, features)
    assert (decision.chosen, decision.is_fallback) == (chosen, is_fallback)
    assert decision.requested == requested
    assert decision.reason


def test_int8_without_vnni_says_that_it_gains_little() -> None:
    assert "VNNI" in choose_precision("int8", AVX512).reason
    assert "VNNI" not in choose_precision("int8", VNNI).reason


@pytest.mark.parametrize(
    ("precision", "features", "hint"),
    [
        ("fp32", AMX, "f32"),
        ("bf16", BF16, "bf16"),
        ("int8", VNNI, "f32"),
        ("int8", BF16, "bf16"),
        ("int8", ARM, "f32"),
    ],
)
def test_the_hint_is_bf16_only_where_it_is_native(
    precision: cpu.ChosenPrecision, features: CpuFeatures, hint: str
) -> None:
    assert inference_hint(precision, features) == hint


@pytest.mark.parametrize(
    ("logical", "affinity", "quota", "expected"),
    [
        (8, None, None, 8),
        (8, 4, None, 4),
        (8, 4, 1.5, 2),
        (8, 4, 0.25, 1),
        (8, 2, 6.0, 2),
        (1, 1, 64.0, 1),
    ],
)
def test_usable_cores_are_what_affinity_and_quota_leave(
    logical: int, affinity: int | None, quota: float | None, expected: int
) -> None:
    assert cpu.usable_cores(logical, affinity, quota) == expected


def test_this_machine_can_be_looked_at() -> None:
    found = cpu.detect({})
    assert 1 <= found.usable_cores <= found.logical_cores
    assert found.memory_bytes is None or found.memory_bytes > 2**26
    assert found.isa_cap is None
    assert cpu.detect({"ONEDNN_MAX_CPU_ISA": "SSE41"}).avx2 is False


def test_the_description_names_what_matters() -> None:
    described = replace(BF16, model_name="EPYC", memory_bytes=3 * 2**29, isa_cap="AVX512_CORE_BF16")
    rows = dict(described.describe())
    assert rows["Features"] == "avx2, avx512, avx512_vnni, avx512_bf16"
    assert rows["Memory"] == "1.5 GiB"
    assert rows["Capped by"].endswith("AVX512_CORE_BF16")
    assert "Capped by" not in dict(AVX2.describe())


# --- containers ----------------------------------------------------------------------------------


def control(root: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{content}\n")


def test_meminfo_is_in_bytes() -> None:
    assert cpu.parse_meminfo("MemFree: 1 kB\nMemTotal:       16384 kB\n") == 2**24
    assert cpu.parse_meminfo("") is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max 100000\n", None),
        ("150000 100000\n", 1.5),
        ("50000\n", 0.5),
        ("", None),
        ("1 0", None),
    ],
)
def test_a_quota_of_version_2_is_a_share(text: str, expected: float | None) -> None:
    assert cgroups.parse_cpu_max(text) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"),
    [("-1", "100000", None), ("200000", "100000", 2.0), ("x", "1", None), ("1", "0", None)],
)
def test_a_quota_of_version_1_is_a_share(quota: str, period: str, expected: float | None) -> None:
    assert cgroups.parse_cfs(quota, period) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("max\n", None), ("9223372036854771712\n", None), ("1024\n", 1024)]
)
def test_a_memory_limit_may_be_none(text: str, expected: int | None) -> None:
    assert cgroups.parse_memory(text) == expected


def test_the_tightest_group_on_the_way_to_the_root_binds(tmp_path: Path) -> None:
    files = {
        "a/b/cpu.max": "max 100000",
        "a/cpu.max": "300000 100000",
        "a/b/memory.max": "4096",
        "a/memory.max": "8192",
    }
    control(tmp_path, files)
    assert cgroups.cpu_quota("0::/a/b\n", tmp_path) == 3.0
    assert cgroups.memory_limit("0::/a/b\n", tmp_path) == 4096


def test_inside_a_container_the_root_holds_the_limit(tmp_path: Path) -> None:
    control(tmp_path, {"cpu.max": "50000 100000"})
    assert cgroups.cpu_quota("0::/\n", tmp_path) == 0.5
    assert cgroups.cpu_quota("0::/kubepods/pod-seen-from-outside\n", tmp_path) == 0.5


def test_version_1_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    files = {
        "cpu,cpuacct/cpu.cfs_quota_us": "150000",
        "cpu,cpuacct/cpu.cfs_period_us": "100000",
        "memory/job/memory.limit_in_bytes": "2048",
    }
    control(tmp_path, files)
    membership = "5:cpuset:/other\n4:memory:/job\n3:cpu,cpuacct:/docker/1\n0::/\n"
    assert cgroups.cpu_quota(membership, tmp_path) == 1.5
    assert cgroups.memory_limit(membership, tmp_path) == 2048


def test_without_control_files_there_is_no_limit(tmp_path: Path) -> None:
    assert cgroups.cpu_quota("", tmp_path) is None
    assert cgroups.memory_limit("0::/\n1:name=systemd:/x\n", tmp_path) is None
