import keras
import numpy as np
import pytest
from helpers import images, run, symbolic, to_numpy
from keras import ops

from keras_sepvit.windows import pad_to_windows, window_merge, window_partition

TILINGS = [
    ((2, 4, 4, 3), (2, 2)),
    ((2, 6, 6, 3), (6, 6)),  # one window
    ((1, 6, 4, 2), (3, 4)),  # one column
    ((3, 4, 6, 1), (4, 2)),  # one row
    ((2, 6, 10, 3), (2, 5)),
    ((1, 3, 2, 4), (1, 1)),
]


def cut_windows(x, window):
    """Row-major windows, one at a time."""
    batch, height, width, channels = x.shape
    cut = [
        x[:, top : top + window[0], left : left + window[1]].reshape(batch, -1, channels)
        for top in range(0, height, window[0])
        for left in range(0, width, window[1])
    ]
    return np.stack(cut, axis=1)


@pytest.mark.parametrize("shape, window", TILINGS)
def test_partition_cuts_row_major_windows_and_merge_inverts_it(shape, window):
    x = images(shape)
    windows = window_partition(ops.convert_to_tensor(x), window)
    np.testing.assert_array_equal(to_numpy(windows), cut_windows(x, window))
    np.testing.assert_array_equal(to_numpy(window_merge(windows, window, *shape[1:3])), x)


@pytest.mark.parametrize(
    "size, window, padded",
    [((5, 7), (2, 3), (6, 9)), ((4, 7), (4, 4), (4, 8)), ((1, 6), (5, 3), (5, 6))],
)
def test_padding_adds_zeros_at_the_bottom_and_right(size, window, padded):
    x = images((2, *size, 3))
    result = to_numpy(pad_to_windows(ops.convert_to_tensor(x), window))
    expected = np.zeros((2, *padded, 3), "float32")
    expected[:, : size[0], : size[1]] = x
    np.testing.assert_array_equal(result, expected)


def test_a_map_of_whole_windows_is_not_padded():
    x = ops.convert_to_tensor(images((1, 6, 9, 2)))
    assert pad_to_windows(x, (2, 3)) is x


class PadAndCut(keras.layers.Layer):
    def call(self, inputs):
        padded = pad_to_windows(inputs, (2, 3))
        windows = window_partition(padded, (2, 3))
        _, height, width, _ = ops.shape(padded)
        return windows, window_merge(windows, (2, 3), height, width)

    def compute_output_shape(self, input_shape):
        batch, _, _, channels = input_shape
        return (batch, None, 6, channels), (batch, None, None, channels)


def test_sizes_may_be_dynamic_in_a_functional_model():
    inputs = keras.Input((None, None, 3))
    model = keras.Model(inputs, PadAndCut()(inputs))
    for height, width in ((5, 7), (2, 3), (8, 3)):
        x = images((2, height, width, 3))
        padded = np.pad(x, ((0, 0), (0, -height % 2), (0, -width % 3), (0, 0)))
        windows, merged = run(symbolic(model), x)
        np.testing.assert_array_equal(windows, cut_windows(padded, (2, 3)))
        np.testing.assert_array_equal(merged, padded)
