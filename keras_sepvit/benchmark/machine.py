"""The machine and the versions that numbers were measured with."""

import os
import pathlib
import platform
import shutil
import subprocess
from importlib import metadata

PACKAGES = (
    "keras-sepvit keras keras-hub keras-cv tensorflow tensorflow-cpu jax torch torchvision "
    "transformers numpy pillow timm ai-edge-litert ai-edge-quantizer onnx onnxruntime"
).split()

# Instructions that decide how fast products of matrices are.
INSTRUCTIONS = (
    "avx2 avx512f avx512_vnni avx512_bf16 avx512_fp16 amx_bf16 amx_fp16 amx_int8 asimd sve bf16"
).split()


def machine():
    """Processor, memory and versions, as a dict that JSON can hold."""
    processor = proc_fields("/proc/cpuinfo")
    flags = (processor.get("flags") or processor.get("Features") or "").split()
    memory = proc_fields("/proc/meminfo").get("MemTotal")
    return {
        "processor": processor.get("model name") or platform.processor() or platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
        "available_cores": available_cores(),
        "gpu": _gpu(),
        "memory_gib": round(int(memory.split()[0]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {d.name: d.version for d in metadata.distributions() if d.name in PACKAGES},
    }


def sentences(facts, packages=PACKAGES):
    """Markdown of what `machine` found: the machine, and the versions of packages."""
    versions = ", ".join(
        f"{name} {facts['versions'][name]}" for name in packages if name in facts["versions"]
    )
    return (
        f"Machine: {facts['processor']}, {facts['available_cores']} of {facts['cores']} virtual "
        f"cores ({', '.join(facts['instructions'])}); {facts['memory_gib']} GiB; "
        f"{facts['system']}; GPU: {facts['gpu'] or 'none'}.\n\n"
        f"Versions: Python {facts['python']}, {versions}."
    )


def available_cores():
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _gpu():
    """Name, memory and driver of the first GPU of NVIDIA, in a line; None without one."""
    query = "--query-gpu=name,memory.total,driver_version"
    command = ["nvidia-smi", query, "--format=csv,noheader"]
    if shutil.which(command[0]):
        found = subprocess.run(command, capture_output=True, text=True).stdout
        return found.partition("\n")[0] or None


def proc_fields(path):
    """The first value of each key of a file of `key: value` lines; empty if there is no file."""
    path = pathlib.Path(path)
    lines = path.read_text().splitlines() if path.exists() else ()
    pairs = [line.partition(":") for line in lines]
    return {key.strip(): value.strip() for key, _, value in reversed(pairs)}
