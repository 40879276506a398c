"""What is chosen of an axis: the largest, the best, rows, boxes; as each backend has it."""

import keras
from keras import ops

ONNX_DOMAIN = "keras_sepvit"


def argmax(x):
    """Where the last axis of a float tensor is highest: int32 of shape `x.shape[:-1]`."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        # Keras tells -0 from 0 in bits first, for which LiteRT has no operator.
        return tf.argmax(x, axis=-1, output_type="int32")
    return ops.argmax(x, axis=-1)


def top_k(x, k):
    """The k highest of the last axis, the highest first; of equal ones the lower place first.

    Args:
        x: Float tensor of shape (..., n).
        k: How many, at most n.

    Returns:
        The values and their places, int32, (..., k).
    """
    if keras.config.backend() == "torch":
        import torch

        if torch.compiler.is_exporting():  # ONNX's operator has this order, torch's has none
            values, places = torch.topk(x, k)
        else:
            values, places = torch.sort(x, descending=True, stable=True)
        return values[..., :k], places[..., :k].to(torch.int32)
    values, places = ops.top_k(x, k)
    return values, ops.cast(places, "int32")


def onnx_suppress(boxes, groups, valid, iou_threshold, count):
    """`detection.decoding.suppress` as one node of a graph that PyTorch exports to ONNX.

    Its inputs are the tensors, its attributes the numbers, with that of the boxes as `number`.
    `export.onnx_suppression` puts nodes of the standard into its place.
    """
    import torch

    return torch.onnx.ops.symbolic(
        f"{ONNX_DOMAIN}::Suppress",
        (boxes, groups, valid),
        {"iou_threshold": float(iou_threshold), "count": count, "number": boxes.shape[1]},
        dtype=torch.int32,
        shape=(boxes.shape[0], count),
        version=1,
    )


def tensorflow_suppress(boxes, groups, valid, iou_threshold, count):
    """`detection.decoding.suppress` by an operator of TensorFlow that LiteRT and ONNX have, too.

    The operator knows no groups: boxes are moved apart by them, in rows and columns, so that
    the numbers stay small and their last digits there. Of equal scores it takes any first, so
    that ranks stand for them. Boxes without area, which do not overlap themselves, it would take
    again and again: others stand for them, beside all else.
    """
    import tensorflow as tf

    batch, n, _ = boxes.shape
    columns = tf.cast(tf.sqrt(tf.cast(tf.reduce_max(groups) + 1, tf.float32)) + 1, tf.int32)
    offsets = tf.cast(tf.stack([groups % columns, groups // columns], axis=-1), tf.float32)
    side = tf.reduce_max(boxes) + 1
    boxes += tf.tile(offsets * side, (1, 1, 2))
    left, top, right, bottom = tf.split(boxes, 4, axis=-1)
    has_area = (right - left) * (bottom - top) > 0
    # Integers that are constants stay so until here: as floats, files of half precision
    # would keep them in half, where those above 2,048 fall together.
    beside = tf.range(n)[:, tf.newaxis] * [-2, 0, -2, 0] + [-2, -1, -1, 0]
    beside = tf.cast(tf.where(has_area, 0, beside), tf.float32)
    boxes = tf.where(has_area, boxes, beside)
    ranks = tf.cast(tf.where(valid, tf.range(n, 0, -1), 0), tf.float32)

    def of_picture(picture):
        places, found = tf.raw_ops.NonMaxSuppressionV4(
            boxes=picture[0],
            scores=picture[1],
            max_output_size=count,
            iou_threshold=iou_threshold,
            score_threshold=0.5,
            pad_to_max_output_size=True,
        )
        return tf.where(tf.range(count) < found, places, -1)

    if batch is None:
        return tf.map_fn(of_picture, (boxes, ranks), fn_output_signature=tf.int32)
    kept = []
    for number in range(batch):
        # Not indexed, which drops axes.
        own, own_ranks = (x[number : number + 1] for x in (boxes, ranks))
        places = of_picture((tf.reshape(own, (n, 4)), tf.reshape(own_ranks, (n,))))
        kept.append(tf.reshape(places, (1, count)))
    return tf.concat(kept, axis=0)


def take_rows(x, places):
    """`ops.take(x, places, axis=0)` for places that are not negative."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.gather(x, places)  # Keras counts negative ones from the end
    if keras.config.backend() == "torch":
        return x[places.long()]  # Keras's form is written into ONNX wrongly for vectors
    return ops.take(x, places, axis=0)


def sum_of_rows(table, parts):
    """Of each picture the sum of rows of its table, each times its share.

    The gradient is added up in one array of the table's size. The backends' own has one for each
    part, or rows of all parts, at the same time.

    Args:
        table: Float tensor (batch, rows, channels).
        parts: List of places, int32 (batch, n), not negative, and their shares, float32 (batch, n,
            1), which have no gradient.

    Returns:
        float32 (batch * n, channels).
    """
    batch, count, channels = ops.shape(table)
    if keras.config.backend() == "jax":
        import jax

        # Flat ones would cross pictures: devices that share a batch would send tables around.
        take = jax.vmap(lambda x, places: x[places])
        add = jax.vmap(lambda x, places, rows: x.at[places].add(rows))
    else:
        first = ops.expand_dims(ops.arange(batch, dtype="int32") * count, 1)
        table = ops.reshape(table, (-1, channels))
        parts = [
            (ops.reshape(places + first, (-1,)), ops.reshape(shares, (-1, 1)))
            for places, shares in parts
        ]
        take, add = take_rows, _add_to_rows

    @ops.custom_gradient
    def summed(table):
        total = 0
        for places, shares in parts:
            total = total + ops.cast(take(table, places), "float32") * shares

        def gradient(*upstream, **keywords):  # torch's has its name
            (upstream,) = [*upstream, *keywords.values()][-1:]
            sums = ops.zeros_like(table, dtype="float32")
            for places, shares in parts:
                sums = add(sums, places, upstream * shares)
            return ops.cast(sums, table.dtype)

        return total, gradient

    return ops.reshape(summed(table), (-1, channels))


def _add_to_rows(x, places, rows):
    """`x`, to which rows are added at places, equal ones too. On torch `x` itself is changed."""
    if keras.config.backend() == "tensorflow":
        import tensorflow as tf

        return tf.tensor_scatter_nd_add(x, tf.expand_dims(places, 1), rows)
    return x.index_add_(0, places, rows)
