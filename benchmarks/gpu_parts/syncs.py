"""How often a program makes the host wait for the GPU."""

import collections
import pathlib
import warnings

import keras


def count_syncs(program):
    """What `program()` returns on its second call, and a dict of the host's waits in it.

    torch alone tells: `syncs`, their number, and `sync_lines`, the lines of Python that
    waited, with how often. The dict is empty elsewhere.
    """
    outputs = program()
    if keras.config.backend() != "torch":
        return outputs, {}
    import torch

    if not torch.cuda.is_available():
        return outputs, {}
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            outputs = program()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    lines = collections.Counter(
        f"{'/'.join(pathlib.Path(found.filename).parts[-2:])}:{found.lineno}"
        for found in caught
        if "called a synchronizing" in str(found.message)
    )
    return outputs, {"syncs": sum(lines.values()), "sync_lines": dict(lines.most_common(8))}
