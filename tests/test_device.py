"""What is asked of a backend's device."""

import os
import pathlib

import pytest
from helpers import BACKEND

from keras_sepvit.training import device


@pytest.mark.parametrize("flags, multiplies", [("avx512_bf16 amx_tile", False), ("amx_bf16", True)])
def test_precision_of_a_processor_goes_by_what_it_multiplies(
    flags, multiplies, tmp_path, monkeypatch
):
    """AMX alone makes bfloat16 faster, where the backend uses it."""
    (tmp_path / "cpuinfo").write_text(f"flags : fpu {flags} sse2\n")
    monkeypatch.setattr(device.pathlib, "Path", lambda _: pathlib.PosixPath(tmp_path / "cpuinfo"))
    expected = "mixed_bfloat16" if multiplies and BACKEND != "jax" else "float32"
    assert device.fastest_precision() == expected


def test_deterministic_operations_are_switched_on(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")
    if BACKEND == "jax":
        device.use_deterministic_operations()
        assert os.environ["XLA_FLAGS"].split() == [
            "--xla_cpu_enable_fast_math=false",
            "--xla_gpu_deterministic_ops=true",
        ]
    elif BACKEND == "torch":
        import torch

        assert not torch.are_deterministic_algorithms_enabled()
        device.use_deterministic_operations()
        enabled = torch.are_deterministic_algorithms_enabled()
        torch.use_deterministic_algorithms(False)
        assert enabled
    else:
        from tensorflow.python.framework import config

        device.use_deterministic_operations()
        enabled = config.is_op_determinism_enabled()
        config.disable_op_determinism()
        assert enabled
