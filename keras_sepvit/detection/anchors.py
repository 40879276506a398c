"""Anchors: the boxes of several sizes and shapes at each place of a pyramid's maps."""

import dataclasses

import numpy as np
from keras import ops


@dataclasses.dataclass(frozen=True)
class Anchors:
    """The anchors of a pyramid, as RetinaNet has them (arXiv 1708.02002, section 4).

    The anchors of place (x, y) are centred at (x, y) times the level's stride, not at the middle of
    the place, as mmdetection has it. Their order is level, row, column, ratio, octave.

    Args:
        scale: Side of the smallest square anchor in strides.
        octaves: Sizes between `scale` and its double, which the next level has: the side grows by
            2 ** (1 / octaves).
        ratios: Heights of anchors over their widths.
        strides: Pixels between places, by level.
        multiple: Pictures are padded to multiples of so many pixels by themselves, before they
            are padded to the size of a batch.
    """

    scale: float = 4.0
    octaves: int = 3
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    multiple: int = 32

    @property
    def per_place(self):
        """Number of anchors at a place."""
        return self.octaves * len(self.ratios)

    def boxes(self, map_sizes):
        """The anchors of each level.

        Args:
            map_sizes: (height, width) of the levels' maps; ints or scalar tensors.

        Returns:
            List of (height * width * per_place, 4), float32.
        """
        return [
            self._level(stride, *size) for stride, size in zip(self.strides, map_sizes, strict=True)
        ]

    def _level(self, stride, height, width):
        right = ops.convert_to_tensor([stride, 0, stride, 0], "float32")
        down = ops.convert_to_tensor([0, stride, 0, stride], "float32")
        columns = ops.reshape(ops.cast(ops.arange(width), "float32"), (1, -1, 1, 1))
        rows = ops.reshape(ops.cast(ops.arange(height), "float32"), (-1, 1, 1, 1))
        origin = ops.convert_to_tensor(self._at_origin(stride))
        return ops.reshape(columns * right + rows * down + origin, (-1, 4))

    def _at_origin(self, stride):
        """Those of a level's first place; rounded as mmdetection's are."""
        tall = np.sqrt(np.array(self.ratios, "float32"))
        octaves = 2 ** (np.arange(self.octaves) / self.octaves)
        scales = (self.scale * octaves).astype("float32")
        widths, heights = (
            (stride * factor[:, None] * scales[None, :]).ravel() for factor in (1 / tall, tall)
        )
        halves = np.stack([widths, heights], axis=-1) * np.float32(0.5)
        return np.concatenate([-halves, halves], axis=-1)

    def inside(self, map_sizes, sizes):
        """Which anchors are at places within their picture, padded by itself.

        Args:
            map_sizes: As for `boxes`.
            sizes: (batch, 2), ints: (height, width) of each picture on its canvas.

        Returns:
            (batch, anchors), bool.
        """
        sizes = ops.cast(sizes, "int32")
        padded = (sizes + self.multiple - 1) // self.multiple * self.multiple
        levels = []
        for stride, (height, width) in zip(self.strides, map_sizes, strict=True):
            places = (padded + stride - 1) // stride
            rows = ops.arange(height, dtype="int32")[:, None, None] < places[:, :1, None, None]
            columns = ops.arange(width, dtype="int32")[:, None] < places[:, 1:, None, None]
            is_inside = rows & columns & ops.ones(self.per_place, "bool")
            levels.append(ops.reshape(is_inside, (-1, height * width * self.per_place)))
        return ops.concatenate(levels, axis=1)
