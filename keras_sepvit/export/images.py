"""Images to compare, calibrate and time exported files with."""

import numpy as np

from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.export.errors import ExportError

# Far fewer and the ranges of activations are those of a handful of pictures.
MIN_CALIBRATION_IMAGES = 32


def default_images(image_shape, count=8, seed=0):
    """Seeded pictures with structure: gradients, soft blobs and hard-edged boxes.

    They reach more of a network's range than noise, which a network averages
    away. They are no photographs: the agreement of a trained, quantised model
    should be measured on images of its own kind.

    Args:
        image_shape: (height, width, channels).
        count: Number of images.
        seed: Seed of the pictures.

    Returns:
        Array of shape (count, height, width, channels), float32 of 0..255.
    """
    height, width, channels = image_shape
    rng = np.random.default_rng(seed)
    y = np.linspace(0, 1, height, dtype="float32")[:, None, None]
    x = np.linspace(0, 1, width, dtype="float32")[None, :, None]
    images = np.empty((count, height, width, channels), "float32")
    for image in images:
        slopes = rng.uniform(-1, 1, (2, channels))
        image[:] = rng.uniform(0.2, 0.8, channels) + slopes[0] * (y - 0.5) + slopes[1] * (x - 0.5)
        for _ in range(6):
            center_y, center_x = rng.uniform(0, 1, 2)
            radius = rng.uniform(0.05, 0.3)
            distance = ((y - center_y) ** 2 + (x - center_x) ** 2) / radius**2
            image += np.exp(-distance) * rng.uniform(-1, 1, channels)
        for _ in range(3):
            top, left = rng.uniform(0, 0.8, 2)
            box = (abs(y - top - 0.1) < 0.1) & (abs(x - left - 0.1) < 0.1)
            image[box[..., 0]] = rng.uniform(0, 1, channels)
        image += rng.normal(0, 0.02, image.shape)
    return np.rint(255 * np.clip(images, 0, 1))


def check_images(deployment, images, name="images"):
    """The images to use with a deployed model, as it takes them.

    Args:
        deployment: A `Deployment`.
        images: Array of shape (count, height, width, channels) in the range that
            the deployed model takes; None for `default_images`.
        name: Name of the argument, for errors.

    Returns:
        Array of float32.

    Raises:
        ValueError: for images of another shape, none at all, or values that are
            not finite.
    """
    if images is None:
        images = default_images(deployment.image_shape)
        return images if deployment.takes_pixels else _normalized(images)
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[1:] != deployment.image_shape or not len(images):
        height, width, channels = deployment.image_shape
        raise ValueError(
            f"`{name}` must be an array of shape (count, {height}, {width}, {channels}), as the "
            f"model takes them. Received an array of shape {images.shape}."
        )
    images = images.astype("float32")
    if not np.isfinite(images).all():
        raise ValueError(f"`{name}` holds values that are not finite numbers.")
    return images


def check_calibration_images(deployment, images, precision):
    """The images to calibrate activations with.

    Raises:
        ValueError: for None, fewer than `MIN_CALIBRATION_IMAGES`, or images of
            another shape.
    """
    if images is None:
        raise ValueError(
            f"`quantize={precision!r}` fixes the ranges of activations from images: pass "
            f"`calibration_images`, at least {MIN_CALIBRATION_IMAGES} (100 to 500 are usual) of "
            "the kind that the model will see."
        )
    images = check_images(deployment, images, "calibration_images")
    if len(images) < MIN_CALIBRATION_IMAGES:
        raise ValueError(
            f"`calibration_images` must be at least {MIN_CALIBRATION_IMAGES} (100 to 500 are "
            f"usual), or the ranges of activations are those of a few pictures. Received: "
            f"{len(images)}."
        )
    return images


def refuse_unused_calibration(format):
    """Refuses calibration images for a precision that has no use for them."""
    if format.calibration_images is not None and format.quantize not in format.calibrated:
        raise ValueError(
            f"`calibration_images` are for `quantize` {' or '.join(format.calibrated)} only. "
            f"Received: quantize={format.quantize!r}."
        )


def batches(images, batch_size):
    """Cuts images into batches of one size, the last one filled up with its last image.

    Args:
        images: Array of shape (count, ...).
        batch_size: Images in a batch; None for all of them in one.

    Yields:
        Pairs of a batch and how many of its images count.
    """
    batch_size = batch_size or len(images)
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        missing = batch_size - len(batch)
        yield np.concatenate([batch, batch[-1:].repeat(missing, axis=0)]), len(batch)


def run_batches(run, images, batch_size):
    """The outputs of `run` for all images, batch by batch.

    Args:
        run: Takes a batch, float32 of shape (batch_size, height, width, channels),
            and returns a dict of arrays by output name.
        images: Array of shape (count, height, width, channels).
        batch_size: Images in a batch; None for all of them in one.

    Returns:
        Dict of float32 arrays of shape (count, ...).
    """
    parts = {}
    for batch, count in batches(images, batch_size):
        for name, output in run(batch).items():
            parts.setdefault(name, []).append(np.asarray(output, "float32")[:count])
    if not parts:
        raise ExportError("The exported model has no outputs.")
    return {name: np.concatenate(outputs) for name, outputs in parts.items()}


def _normalized(images):
    """Images of 0..255 as a model without normalisation of its own expects them."""
    if images.shape[-1] == 3:
        return ((images - IMAGENET_MEAN) / np.sqrt(IMAGENET_VARIANCE)).astype("float32")
    return (images - 127.5) / 64
