"""How TensorFlow runs models: `tf.function`, with or without XLA."""

import tensorflow as tf

from keras_sepvit.benchmark.optimizers import keras_optimizer


def prepare(device, threads):
    """Chooses the device; must come first.

    Raises:
        ValueError: if there is no GPU and one is asked for.
    """
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    gpus = tf.config.list_physical_devices("GPU")
    if device == "gpu" and not gpus:
        raise ValueError("--device gpu: TensorFlow finds no GPU.")
    if device == "cpu":
        tf.config.set_visible_devices([], "GPU")


def facts():
    """What the numbers depend on: device, and how float32 products are computed."""
    gpus = tf.config.get_visible_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu)["device_name"] for gpu in gpus]
    tf32 = tf.config.experimental.tensor_float_32_execution_enabled()
    return {"gpu": names[0] if names else None, "tf32": bool(names) and tf32}


def forward(model, images, precision, mode):
    """A function that runs the model once and returns its output when that is there."""
    batch = tf.cast(tf.constant(images), precision)
    compiled = tf.function(lambda x: model(x, training=False), jit_compile=mode == "xla")

    def run():
        output = compiled(batch)
        output.numpy()  # waits
        return output

    return run


def training_step(model, images, labels, precision, mode):
    """A function that trains the model by a step and returns the loss when that is done."""
    batch, targets = tf.constant(images), tf.constant(labels)
    weights = model.trainable_variables
    optimizer = keras_optimizer(precision)
    optimizer.build(weights)

    @tf.function(jit_compile=mode == "xla")
    def step(batch, targets):
        with tf.GradientTape() as tape:
            logits = tf.cast(model(batch, training=True), "float32")
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits)
            loss = tf.reduce_mean(losses)
            scaled = optimizer.scale_loss(loss)
        optimizer.apply(tape.gradient(scaled, [weight.value for weight in weights]), weights)
        return loss

    def run():
        loss = step(batch, targets)
        loss.numpy()  # waits
        return loss

    return run


def product(left, right, precision):
    """A function that multiplies two matrices and returns when that is done."""
    left, right = (tf.cast(tf.constant(matrix), precision) for matrix in (left, right))
    multiply = tf.function(tf.matmul)
    # One number waits for the product without taking all of it from a GPU.
    return lambda: multiply(left, right)[0, 0].numpy()


def to_numpy(output):
    """An output as a float32 array."""
    return tf.cast(output, "float32").numpy()


def peak_device_memory():
    """Bytes of the GPU's memory that tensors took at most; None on a CPU."""
    if not tf.config.get_visible_devices("GPU"):
        return None
    return tf.config.experimental.get_memory_info("GPU:0")["peak"]
