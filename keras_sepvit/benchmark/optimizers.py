"""The optimizer of the training step."""

LEARNING_RATE = 1e-4
WEIGHT_DECAY = 0.05


def keras_optimizer(precision):
    """AdamW of Keras; with a loss scale for float16, whose gradients would vanish without."""
    import keras

    optimizer = keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    if precision == "float16":
        return keras.optimizers.LossScaleOptimizer(optimizer)
    return optimizer
