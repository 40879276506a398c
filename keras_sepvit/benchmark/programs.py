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
    """As `forward`, a function that trains a classifier, a segmenter or a detector by a step.

    It returns the loss. Labels and boxes are random, masks fill their boxes; what the model was
    compiled with is lost.

    Raises:
        ValueError: for another model.
    """
    from keras_sepvit.detection.detector import Detector
    from keras_sepvit.detection.mask_rcnn import MaskRCNN
    from keras_sepvit.segmentation.segmenter import Segmenter

    rng = np.random.default_rng(1)
    options = {"metrics": []}  # instead of those that KerasHub gives its models
    if isinstance(model, Detector):  # which has its own loss, as segmenters have
        targets = random_boxes(rng, batch.shape, model.num_classes)
        if isinstance(model, MaskRCNN):
            targets["masks"] = np.full((*targets["labels"].shape, 112, 112), 255, "uint8")
    else:
        shape, *others = (output.shape for output in model.outputs)  # Sequential has no `output`
        if others or len(shape) not in (2, 4):
            raise ValueError("A training step needs a classifier, a segmenter or a detector.")
        places = batch.shape[1:3] if len(shape) == 4 else ()
        targets = rng.integers(0, shape[-1], (batch.shape[0], *places)).astype("int32")
        if not isinstance(model, Segmenter):
            options["loss"] = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return step_with(model, batch, targets, mode, **options)


def step_with(model, batch, targets, mode, **options):
    """As `training_step`, on given targets; `options` are for the model's `compile`."""
    model.compile(
        keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY),
        **options,
        jit_compile=mode in ("xla", "compile"),
    )
    model.optimizer.build(model.trainable_variables)  # else TensorFlow traces the step twice
    targets = keras.tree.map_structure(keras.ops.convert_to_tensor, targets)
    return lambda: model.train_on_batch(batch, targets)


def random_boxes(rng, shape, classes, objects=8):
    """Boxes (left, top, right, bottom) and labels of so many objects in each image of a batch.

    Args:
        rng: A NumPy generator.
        shape: (batch, height, width, channels) of the images.
        classes: Number of classes.
        objects: Number of objects.
    """
    count, height, width, _ = shape
    corners = np.sort(rng.uniform(0, 1, (2, count, objects, 2)), axis=0) * [width, height]
    boxes = np.concatenate([*corners], axis=-1).astype("float32")
    return {"boxes": boxes, "labels": rng.integers(0, classes, (count, objects)).astype("int32")}


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

    Layers of Keras may break up the graph that `torch.compile` sees, and have the same functions
    compiled again for each layer; `torch.export` leaves them behind.
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
