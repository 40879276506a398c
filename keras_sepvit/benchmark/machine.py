"""The machine and the versions that numbers were measured with."""

import os
import pathlib
import platform
from importlib import metadata

PACKAGES = (
    "keras-sepvit",
    "keras",
    "keras-hub",
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "torch",
    "transformers",
    "numpy",
)

# Instructions that decide how fast products of matrices are.
INSTRUCTIONS = (
    "avx2",
    "avx512f",
    "avx512_vnni",
    "avx512_bf16",
    "avx512_fp16",
    "amx_bf16",
    "amx_fp16",
    "amx_int8",
    "asimd",
    "sve",
    "bf16",
)


def describe_machine():
    """Processor, memory and versions, as a dict that JSON can hold."""
    processor = _fields("/proc/cpuinfo")
    flags = (processor.get("flags") or processor.get("Features") or "").split()
    return {
        "processor": processor.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
        "available_cores": _available_cores(),
        "memory_gib": _memory_gib(),
        "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": _versions(),
    }


def _available_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _memory_gib():
    total = _fields("/proc/meminfo").get("MemTotal")
    return round(int(total.split()[0]) / 2**20, 1) if total else None


def _versions():
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _fields(path):
    """The first value of each key of a file of `key: value` lines; empty if there is none."""
    path = pathlib.Path(path)
    fields = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields
