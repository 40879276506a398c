"""A picture of an augmented batch, as the network sees it."""

import numpy as np

from keras_sepvit.fonts import legible, short
from keras_sepvit.training.picture import draw_images


def draw_classes(path, images, targets, class_names=None):
    """Draws images with the classes of their soft targets.

    Args:
        path: The PNG file to write.
        images: Array (batch, height, width, 3) of 0..255.
        targets: Array (batch, classes), each row of sum 1.
        class_names: Names of the classes. Numbers are shown without, and for names with
            characters that no font of the machine has.
    """
    if class_names is None:
        class_names = [f"class {number}" for number in range(targets.shape[-1])]
    class_names, font = legible(class_names)
    draw_images(path, images, [_title(target, class_names) for target in targets], font)


def _title(target, class_names):
    """The one or two classes that were mixed; the rest is label smoothing."""
    best = np.argsort(target)[::-1][:2]
    if target[best[1]] < target.min() + 0.01:
        best = best[:1]
    return "\n".join(f"{short(class_names[i])} {target[i]:.0%}" for i in best)
