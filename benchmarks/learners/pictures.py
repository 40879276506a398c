"""CIFAR-10 (Krizhevsky 2009) as arrays, and batches of it for training. Without TensorFlow."""

import io
import pathlib

import numpy as np

SIDE = 32

# Pixels by which the random crop of training may shift a picture (He et al., arXiv 1512.03385).
_SHIFT = 4


class Pictures:
    """Pictures in memory with their labels.

    Attributes:
        images: uint8 (count, 32, 32, 3) of 0..255.
        labels: int32 (count,), from 0.
        class_names: Names by label.
    """

    def __init__(self, images, labels, class_names):
        self.images = images
        self.labels = np.asarray(labels, "int32")
        self.class_names = tuple(class_names)

    def __len__(self):
        return len(self.images)


def read_pictures(folder, split, classes, count=None, seed=None):
    """Pictures of some classes, equally many of each.

    Args:
        folder: Has `cifar10_train.npz` and `cifar10_test.npz`: JPEG files in a row (`jpegs`,
            uint8), where each begins (`offsets`), `labels` and `class_names`.
        split: `"train"` or `"test"`.
        classes: Numbers of the classes to take; they become labels from 0 in this order.
        count: How many pictures in all; None for all there are.
        seed: Decides which ones; the first of each class without.

    Raises:
        FileNotFoundError: if the folder lacks the file.
        ValueError: if there are not so many.
    """
    path = pathlib.Path(folder) / f"cifar10_{split}.npz"
    if not path.exists():
        raise FileNotFoundError(f"There is no '{path}': --data is a folder with CIFAR-10 in it.")
    with np.load(path) as file:
        jpegs, offsets, all_labels = file["jpegs"], file["offsets"], file["labels"]
        class_names = [str(file["class_names"][number]) for number in classes]
    numbers, labels = _chosen(all_labels, classes, count, seed)
    images = np.stack([_decoded(jpegs[offsets[i] : offsets[i + 1]]) for i in numbers])
    return Pictures(images, labels, class_names)


def _chosen(all_labels, classes, count, seed):
    """Numbers of the pictures to take, and their labels."""
    rng = None if seed is None else np.random.default_rng(seed)
    numbers, labels = [], []
    for label, of_class in enumerate(classes):
        own = np.flatnonzero(all_labels == of_class)
        wanted = len(own) if count is None else count // len(classes)
        if wanted > len(own):
            raise ValueError(f"There are {len(own):,} pictures of a class, and not {wanted:,}.")
        numbers.append((own if rng is None else rng.permutation(own))[:wanted])
        labels += [label] * wanted
    return np.concatenate(numbers), labels


def _decoded(jpeg):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(jpeg.tobytes())).convert("RGB"))


def training_batches(pictures, batch_size, seed):
    """Endless batches in a new order each epoch: shifted by up to 4 pixels, half of them flipped.

    Yields:
        Tuples of one dict, as `TrainingModel` takes: `"image"`, uint8, and `"label"`, int32. The
        last pictures of an epoch that do not fill a batch are left out.
    """
    rng = np.random.default_rng(seed)
    margins = ((0, 0), (_SHIFT, _SHIFT), (_SHIFT, _SHIFT), (0, 0))
    windows = np.lib.stride_tricks.sliding_window_view(
        np.pad(pictures.images, margins), (SIDE, SIDE), axis=(1, 2)
    )
    while True:
        order = rng.permutation(len(pictures))
        for start in range(0, len(order) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            tops, lefts = rng.integers(0, 2 * _SHIFT + 1, (2, batch_size))
            images = windows[rows, tops, lefts].transpose(0, 2, 3, 1)
            flipped = rng.random(batch_size) < 0.5
            images[flipped] = images[flipped, :, ::-1]
            yield ({"image": np.ascontiguousarray(images), "label": pictures.labels[rows]},)
