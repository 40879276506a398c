"""How each backend runs Keras models: as its users do, compiled where they compile."""

import keras
import numpy as np

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.05


def forward(model, batch, mode):
    """A function without arguments that runs a Keras model on a batch, a tensor of the backend.

    It returns the output when that is there. `mode` is one of `run.MODES` for the backend.
    """
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(lambda x: model(x, training=False), jit_compile=mode == "xla")
        return lambda: waited(compiled(batch))
    if backend == "jax":
        import jax

        state = [
            [variable.value for variable in variables]
            for variables in (model.trainable_variables, model.non_trainable_variables)
        ]
        compiled = jax.jit(lambda state, x: model.stateless_call(*state, x, training=False)[0])
        return lambda: waited(compiled(state, batch))
    return torch_forward(model, lambda x: model(x, training=False), batch, mode)


def torch_forward(module, function, batch, mode):
    """As `forward`, for a function of a batch that calls a module of torch."""
    import torch

    if mode == "export":
        function = _exported(module, function, batch)
    if mode != "eager":
        # Beyond the limit, parts would silently run eagerly, and more of them in later models.
        torch._dynamo.config.fail_on_recompile_limit_hit = True
        function = torch.compile(function)

    @torch.inference_mode()
    def run():
        return waited(function(batch))

    return run


def training_step(model, batch, mode):
    """As `forward`, a function that trains a classifier or a segmenter by a step.

    It returns the loss. Labels are random; what the model was compiled with is lost.

    Raises:
        ValueError: for another model.
    """
    from keras_sepvit.segmentation.segmenter import Segmenter

    # A Sequential model has no `output`.
    shape = model.outputs[0].shape if len(model.outputs) == 1 else ()
    if len(shape) not in (2, 4):
        raise ValueError("A training step needs a classifier or a segmenter.")
    places = batch.shape[1:3] if len(shape) == 4 else ()
    labels = np.random.default_rng(1).integers(0, shape[-1], (batch.shape[0], *places))
    loss = {}
    if not isinstance(model, Segmenter):  # which has its own
        loss = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model.compile(
        keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        **loss,
        metrics=[],  # instead of those that KerasHub gives its models
        jit_compile=mode in ("xla", "compile"),
    )
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step twice
    labels = keras.ops.convert_to_tensor(labels, "int32")
    return lambda: model.train_on_batch(batch, labels)


def waited(outputs):
    """Outputs of a program, once they are computed."""
    backend = keras.config.backend()
    if backend == "jax":
        import jax

        return jax.block_until_ready(outputs)
    if backend == "torch":
        import torch

        if torch.cuda.is_available():
            torch.cuda.synchronize()
    else:
        for tensor in keras.tree.flatten(outputs):
            tensor.numpy()
    return outputs


def _exported(module, function, batch):
    """The operators that a module's function of a batch runs, without the code that calls them.

    Keras's calls of layers break up the graph that `torch.compile` sees, and recompile the
    same functions for each layer; `torch.export` leaves them behind.
    """
    import torch

    class Program(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.module = module  # so that its weights are the program's

        def forward(self, batch):
            return function(batch)

    with torch.no_grad():
        return torch.export.export(Program(), (batch,)).module()
