"""A picture of an augmented batch, as the network sees it."""

import numpy as np

from keras_sepvit.training.picture import draw_images, short_name


def draw_classes(path, images, targets, class_names=None):
    """Draws images with the classes of their soft targets.

    Args:
        path: The PNG file to write.
        images: Array (batch, height, width, 3) of 0..255.
        targets: Array (batch, classes), each row of sum 1.
        class_names: Names of the classes; numbers are shown without.
    """
    draw_images(path, images, [_title(target, class_names) for target in targets])


def _title(target, class_names):
    """The one or two classes that were mixed; the rest is label smoothing."""
    best = np.argsort(target)[::-1][:2]
    if target[best[1]] < target.min() + 0.01:
        best = best[:1]
    names = [class_names[i] if class_names else f"class {i}" for i in best]
    return "\n".join(
        f"{short_name(name, f'class {i}')} {target[i]:.0%}"
        for name, i in zip(names, best, strict=True)
    )
