"""Inference speed of SepViT-T beside Swin-T (KerasHub) and ConvNeXt-T (Keras).

    python benchmarks/inference.py --backends tensorflow jax torch

Backbones without heads at 224 x 224 in float32, each run as users of the backend
run it: a `tf.function`, `jax.jit` over `stateless_call`, `torch.inference_mode`.
For each backend and batch size all models live in one process and take turns, after a
warm-up; a ratio is the median over rounds of (peer's time / SepViT's time in the
same round), so that the machine's drift cancels. Needs `keras-hub`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

BACKENDS = ("tensorflow", "jax", "torch")
IMAGE_SHAPE = (224, 224, 3)


def build_models():
    """The models by name, SepViT first."""
    import keras
    import keras_hub

    import keras_sepvit

    return {
        "SepViT-T": keras_sepvit.SepViTBackbone.from_variant("sepvit_t"),
        "Swin-T": keras_hub.models.SwinTransformerBackbone(
            image_shape=IMAGE_SHAPE,
            embed_dim=96,
            depths=(2, 2, 6, 2),
            num_heads=(3, 6, 12, 24),
            window_size=7,
        ),
        "ConvNeXt-T": keras.applications.ConvNeXtTiny(
            include_top=False, include_preprocessing=False, weights=None, input_shape=IMAGE_SHAPE
        ),
    }


def forward_function(model, batch_size):
    """A function that runs the model once on a fixed random batch and waits for it."""
    import keras
    import numpy as np

    images = np.random.default_rng(0).standard_normal((batch_size, *IMAGE_SHAPE), "float32")
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        images = tf.constant(images)
        compiled = tf.function(lambda x: model(x, training=False))
        return lambda: compiled(images).numpy()
    if backend == "jax":
        import jax

        images = jax.numpy.asarray(images)
        state = (
            [v.value for v in model.trainable_variables],
            [v.value for v in model.non_trainable_variables],
        )
        compiled = jax.jit(lambda state, x: model.stateless_call(*state, x, training=False)[0])
        return lambda: compiled(state, images).block_until_ready()
    import torch

    images = torch.from_numpy(images)

    def forward():
        with torch.inference_mode():
            return model(images, training=False)

    return forward


def measure(batch_sizes, rounds):
    """Times all models in turn; returns one row for each model and batch size."""
    import keras
    import numpy as np

    models = build_models()
    rows = []
    for batch_size in batch_sizes:
        functions = {name: forward_function(m, batch_size) for name, m in models.items()}
        seconds = {name: [] for name in functions}
        for name, function in functions.items():
            for _ in range(2):
                output = np.asarray(function())
            if not np.isfinite(output).all():
                raise RuntimeError(f"{name} gives outputs that are not finite.")
        for _ in range(rounds):
            for name, function in functions.items():
                start = time.perf_counter()
                function()
                seconds[name].append(time.perf_counter() - start)
        ours = seconds["SepViT-T"]
        for name, times in seconds.items():
            ratios = sorted(peer / own for peer, own in zip(times, ours, strict=True))
            rows.append(
                {
                    "backend": keras.config.backend(),
                    "model": name,
                    "batch_size": batch_size,
                    "parameters": models[name].count_params(),
                    "images_per_second": batch_size / statistics.median(times),
                    "ratio": statistics.median(ratios),
                    "ratio_quartiles": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
                }
            )
    return rows


def markdown(rows):
    """The rows as a Markdown table: images/s, and how much faster SepViT-T is."""
    lines = [
        "| backend | batch | model | parameters | images/s | SepViT-T is faster by |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        low, high = row["ratio_quartiles"]
        comparison = f"{row['ratio']:.2f}x ({low:.2f} to {high:.2f})"
        if row["model"] == "SepViT-T":
            comparison = ""
        lines.append(
            f"| {row['backend']} | {row['batch_size']} | {row['model']} "
            f"| {row['parameters'] / 1e6:.1f} M | {row['images_per_second']:.1f} "
            f"| {comparison} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backends", nargs="+", choices=BACKENDS, default=BACKENDS)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=(1, 16))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="print the rows as JSON lines")
    options = parser.parse_args()

    if len(options.backends) == 1:
        os.environ["KERAS_BACKEND"] = options.backends[0]
        rows = measure(options.batch_sizes, options.rounds)
    else:  # a process has one backend
        rows = []
        for backend in options.backends:
            command = [sys.executable, __file__, "--json", "--backends", backend]
            command += ["--rounds", str(options.rounds), "--batch-sizes"]
            command += map(str, options.batch_sizes)
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            rows += [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    print("\n".join(map(json.dumps, rows)) if options.json else markdown(rows))


if __name__ == "__main__":
    main()
