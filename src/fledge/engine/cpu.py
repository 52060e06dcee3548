"""What this CPU can compute, and which precision that makes the right one.

The wrong precision is not a little slower: bf16 emulated is 20 times slower than fp32, and on
AVX2 neither bf16 nor int8 compiles. So it is decided from the CPU's own word, and said aloud.
Parsing takes text, deciding takes `CpuFeatures`: only `detect` looks at the machine.
"""

import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

from fledge.engine import cgroups
from fledge.types import Precision

ChosenPrecision: TypeAlias = Literal["fp32", "bf16", "int8"]
Hint: TypeAlias = Literal["bf16", "f32"]

ISA_VARIABLES = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""oneDNN, which computes for OpenVINO, uses no instruction above this; the first one set counts."""

ISA_FEATURES: Mapping[str, frozenset[str]] = {
    "SSE41": frozenset(),
    "AVX": frozenset(),
    "AVX2": frozenset({"avx2"}),
    "AVX2_VNNI": frozenset({"avx2"}),
    "AVX2_VNNI_2": frozenset({"avx2"}),
    "AVX512_CORE": frozenset({"avx2", "avx512"}),
    "AVX512_CORE_VNNI": frozenset({"avx2", "avx512", "avx512_vnni"}),
    "AVX512_CORE_BF16": frozenset({"avx2", "avx512", "avx512_vnni", "avx512_bf16"}),
    "AVX512_CORE_FP16": frozenset({"avx2", "avx512", "avx512_vnni", "avx512_bf16"}),
    "AVX10_1_512": frozenset({"avx2", "avx512", "avx512_vnni", "avx512_bf16"}),
}
"""What each cap leaves. Values that are not here (ALL, DEFAULT, the AMX ones) cap nothing that
Fledge asks about; neither do unknown ones, which oneDNN passes over as well."""

X86_FLAGS: Mapping[str, frozenset[str]] = {
    "avx2": frozenset({"avx2"}),
    # What oneDNN calls the core of AVX-512: the foundation alone does not serve it.
    "avx512": frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"}),
    "avx512_vnni": frozenset({"avx512_vnni"}),
    "avx512_bf16": frozenset({"avx512_bf16"}),
    "amx_bf16": frozenset({"amx_tile", "amx_bf16"}),
    "amx_int8": frozenset({"amx_tile", "amx_int8"}),
}
ARM_IMPLEMENTERS = {
    "0x41": "Arm",
    "0x46": "Fujitsu",
    "0x48": "HiSilicon",
    "0x4e": "NVIDIA",
    "0x51": "Qualcomm",
    "0x61": "Apple",
    "0x6d": "Microsoft",
    "0xc0": "Ampere",
}
SYSCTL = "/usr/sbin/sysctl"


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuFeatures:
    """The CPU as this process may use it.

    Attributes:
        architecture: `x86_64`, `arm64`, or what the system calls another.
        fp16: half-precision arithmetic on ARM.
        usable_cores: what affinity and the container's quota leave of `logical_cores`.
        memory_bytes: the smaller of the machine's memory and the container's limit; None when
            neither could be read.
        isa_cap: the environment's cap on instructions, already applied to the features.
    """

    vendor: str = "unknown"
    model_name: str = "unknown"
    architecture: str = "unknown"
    avx2: bool = False
    avx512: bool = False
    avx512_vnni: bool = False
    avx512_bf16: bool = False
    amx_bf16: bool = False
    amx_int8: bool = False
    fp16: bool = False
    physical_cores: int = 1
    logical_cores: int = 1
    usable_cores: int = 1
    memory_bytes: int | None = None
    isa_cap: str | None = None

    @property
    def has_native_bf16(self) -> bool:
        """Whether bf16 is computed by the CPU itself, not emulated."""
        return self.avx512_bf16 or self.amx_bf16

    @property
    def is_arm(self) -> bool:
        """Whether this is a 64-bit ARM CPU, whose kernels are not oneDNN's x86 ones."""
        return self.architecture == "arm64"

    @property
    def needs_whole_rows(self) -> bool:
        """Whether int8's quantization group must be the maximum: one group for a whole row."""
        return self.is_arm

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the features that matter here and are present."""
        return tuple(name for name in (*X86_FLAGS, "fp16") if getattr(self, name))

    def describe(self) -> list[tuple[str, str]]:
        """Rows for people: a label and a value."""
        cores = (
            f"{self.usable_cores} usable of {self.logical_cores} ({self.physical_cores} physical)"
        )
        rows = [
            ("CPU", f"{self.model_name} ({self.vendor}, {self.architecture})"),
            ("Features", ", ".join(self.features) or "none that Fledge can use"),
            ("Cores", cores),
            ("Memory", _gib(self.memory_bytes)),
        ]
        if self.isa_cap:
            rows.append(("Capped by", f"{ISA_VARIABLES[0]}={self.isa_cap}"))
        return rows


@dataclass(frozen=True, slots=True)
class Decision:
    """The precision to compute in, and why.

    Attributes:
        reason: one clause for people.
        is_fallback: the person asked for another precision than they get: worth a warning.
    """

    requested: Precision
    chosen: ChosenPrecision
    reason: str
    is_fallback: bool = False


def choose_precision(requested: Precision, features: CpuFeatures) -> Decision:
    """What `requested` means on this CPU. Never what the CPU cannot compute natively."""
    if requested == "fp32":
        return Decision(requested, "fp32", "asked for")
    if requested == "int8":
        return _choose_int8(features)
    if features.has_native_bf16:
        how = "AMX" if features.amx_bf16 else "AVX512-BF16"
        return Decision(requested, "bf16", f"the CPU computes bf16 natively ({how})")
    lack = "the CPU does not compute bf16 natively"
    if requested == "auto":
        return Decision(requested, "fp32", lack)
    return Decision(
        requested, "fp32", f"{lack}, and emulating it is slower than fp32", is_fallback=True
    )


def _choose_int8(features: CpuFeatures) -> Decision:
    if features.is_arm:
        return Decision("int8", "int8", "asked for")
    if not features.avx512:
        return Decision(
            "int8", "fp32", "int8 needs AVX-512, which the CPU does not have", is_fallback=True
        )
    if not (features.avx512_vnni or features.amx_int8):
        return Decision("int8", "int8", "asked for; without VNNI it gains little over fp32")
    return Decision("int8", "int8", "asked for")


def inference_hint(precision: ChosenPrecision, features: CpuFeatures) -> Hint:
    """The type in which everything that is not int8 or pinned to float32 is computed.

    int8 wants what the CPU computes natively: emulated bf16 around int8 costs more than it saves.
    """
    if precision == "fp32":
        return "f32"
    if precision == "int8" and not features.has_native_bf16:
        return "f32"
    return "bf16"


def detect(environ: Mapping[str, str] = os.environ) -> CpuFeatures:
    """Look at this machine. Never fails: what cannot be read is taken as absent."""
    if sys.platform == "linux":
        found = parse_cpuinfo(_read(Path("/proc/cpuinfo")), platform.machine())
        memory = parse_meminfo(_read(Path("/proc/meminfo")))
        membership = _read(cgroups.MEMBERSHIP)
        quota = cgroups.cpu_quota(membership)
        limits = [n for n in (memory, cgroups.memory_limit(membership)) if n is not None]
        found = replace(found, memory_bytes=min(limits, default=None))
    elif sys.platform == "darwin":
        found, quota = parse_sysctl(_sysctl(), platform.machine()), None
    else:
        found, quota = _from_platform(), None
    usable = usable_cores(found.logical_cores, _affinity(), quota)
    return cap_features(replace(found, usable_cores=usable), isa_cap(environ))


def usable_cores(logical: int, affinity: int | None, quota: float | None) -> int:
    """Cores to compute with: a quota of one and a half is used by two threads better than one."""
    cores = min(logical, affinity or logical)
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def isa_cap(environ: Mapping[str, str]) -> str | None:
    """oneDNN's cap on instructions, upper case, or None."""
    values = [environ[name] for name in ISA_VARIABLES if environ.get(name)]
    return values[0].upper() if values else None


def cap_features(features: CpuFeatures, cap: str | None) -> CpuFeatures:
    """The features that oneDNN still uses under its cap."""
    left = ISA_FEATURES.get(cap or "")
    if features.is_arm or left is None:
        return features
    return replace(_with_x86(features, left & set(features.features)), isa_cap=cap)


def parse_cpuinfo(text: str, machine: str) -> CpuFeatures:
    """Linux's `/proc/cpuinfo`, of x86 or ARM; cores outside this process's reach included."""
    cpus = [_fields(block) for block in re.split(r"\n\s*\n", text) if "processor" in block]
    first = cpus[0] if cpus else {}
    flags = frozenset(first.get("flags", first.get("features", "")).split())
    implementer = first.get("cpu implementer", "")
    cores = {(cpu["physical id"], cpu["core id"]) for cpu in cpus if "core id" in cpu}
    logical = len(cpus) or os.cpu_count() or 1
    found = CpuFeatures(
        vendor=first.get("vendor_id") or ARM_IMPLEMENTERS.get(implementer, "unknown"),
        model_name=first.get("model name") or machine,
        architecture=normal_architecture(machine),
        fp16="asimdhp" in flags,
        physical_cores=len(cores) or logical,
        logical_cores=logical,
    )
    return _with_x86(found, _x86_features(flags))


def parse_meminfo(text: str) -> int | None:
    """The bytes of `MemTotal` in Linux's `/proc/meminfo`."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", text, re.MULTILINE)
    return int(match[1]) * 1024 if match else None


def parse_sysctl(text: str, machine: str) -> CpuFeatures:
    """The output of macOS's `sysctl hw machdep.cpu`."""
    values = _fields(text)
    # macOS writes AVX512F and AVX512VNNI where Linux writes avx512f and avx512_vnni.
    words = (
        f"{values.get('machdep.cpu.features', '')} {values.get('machdep.cpu.leaf7_features', '')}"
    )
    flags = frozenset(
        re.sub("avx512(vnni|bf16)", r"avx512_\1", word.replace("-", "_"))
        for word in words.lower().split()
    )
    logical = _integer(values.get("hw.logicalcpu")) or os.cpu_count() or 1
    model = values.get("machdep.cpu.brand_string", machine)
    found = CpuFeatures(
        vendor=values.get("machdep.cpu.vendor") or ("Apple" if "Apple" in model else "unknown"),
        model_name=model,
        architecture=normal_architecture(machine),
        fp16=values.get("hw.optional.arm.FEAT_FP16") == "1",
        physical_cores=_integer(values.get("hw.physicalcpu")) or logical,
        logical_cores=logical,
        memory_bytes=_integer(values.get("hw.memsize")),
    )
    return _with_x86(found, _x86_features(flags))


def normal_architecture(machine: str) -> str:
    """One name for what systems call `AMD64`, `x86_64`, `aarch64` and `arm64`."""
    name = machine.lower()
    return {"amd64": "x86_64", "aarch64": "arm64"}.get(name, name or "unknown")


def _x86_features(flags: frozenset[str]) -> frozenset[str]:
    return frozenset(name for name, needed in X86_FLAGS.items() if needed <= flags)


def _with_x86(cpu: CpuFeatures, names: frozenset[str]) -> CpuFeatures:
    return replace(
        cpu,
        avx2="avx2" in names,
        avx512="avx512" in names,
        avx512_vnni="avx512_vnni" in names,
        avx512_bf16="avx512_bf16" in names,
        amx_bf16="amx_bf16" in names,
        amx_int8="amx_int8" in names,
    )


def _fields(text: str) -> dict[str, str]:
    """Lines of `name : value`; a name keeps its case only where it holds a dot (sysctl's)."""
    fields = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            name = name.strip()
            fields[name if "." in name else name.lower()] = value.strip()
    return fields


def _integer(text: str | None) -> int | None:
    return int(text) if text and text.isdigit() else None


def _from_platform() -> CpuFeatures:
    """Elsewhere nobody tells the features without compiled code: none means fp32, always right."""
    cores = os.cpu_count() or 1
    return CpuFeatures(
        model_name=platform.processor() or "unknown",
        architecture=normal_architecture(platform.machine()),
        physical_cores=cores,
        logical_cores=cores,
    )


def _affinity() -> int | None:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def _sysctl() -> str:
    try:
        done = subprocess.run(  # noqa: S603 - a fixed program with fixed arguments
            [SYSCTL, "hw", "machdep.cpu"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _gib(size: int | None) -> str:
    return "unknown" if size is None else f"{size / 2**30:.1f} GiB"
