"""Random numbers."""

from collections.abc import Sequence

import keras


def uniform(shape, generator):
    """`keras.random.uniform(shape, seed=generator)`, in graphs of torch's compiler too."""
    if keras.config.backend() == "torch":
        import torch

        if torch.compiler.is_compiling():
            seed = generator.state.value.clone()
            generator.state.assign(seed + torch.arange(2, dtype=seed.dtype, device=seed.device))
            return torch.ops.keras_sepvit.uniform(seed, shape)
    return keras.random.uniform(shape, dtype="float32", seed=generator)


if keras.config.backend() == "torch":
    import torch

    @torch.library.custom_op("keras_sepvit::uniform", mutates_args=())
    def _torch_uniform(seed: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
        """Keras's draw, as one operator: a graph cannot hold a generator."""
        generator = torch.Generator(seed.device)
        generator.manual_seed(int(seed.sum()) & 0xFFFFFFFF)
        return torch.rand(shape, generator=generator, device=seed.device)

    @_torch_uniform.register_fake
    def _(seed, shape):
        return seed.new_empty(shape, dtype=torch.float32)
