"""stub until the measured one comes"""
from pathlib import Path


def anonymous_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])*1024
    return 0
def trim() -> None:
    import ctypes
    ctypes.CDLL("libc.so.6").malloc_trim(0)
def default_budget_bytes() -> int:
    return 16*2**30
def bytes_of_parameters(parameters: int, precision: str) -> int:
    return int(parameters*{"fp32":4,"bf16":2,"int8":1.1}[precision]) + 30*2**20
def model_bytes(folder: Path, precision: str) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*.safetensors"))//2 + 30*2**20
