"""Numbers of the authors' PyTorch code to agree with, and the weights behind them.

`tests/data/*.npz` was computed with the authors' code, in float32 on a CPU, on
weights and images that both sides make from the same seeds, so that no weights
are stored. `tests/data/state_dict_shapes.json` holds the keys and shapes of the
authors' state dicts, in their order and in PyTorch's layout.

`official_classification_{lite,tiny}.npz`, on `inputs(0, (2, 224, 224, 3))`:
`logits` before softmax, and, for stages 1 to 4, `stagek_shape` and `stagek`,
the map after the stage's last block (before the final norm), sampled by
`sample_stage`.

`official_dense_tiny_{224x224,250x333}.npz`, on `inputs(1, (1, H, W, 3))`: for
levels 2 to 5 `Pk_shape`, `Pk`, sampled by `sample_level`, `Pk_mean` and `Pk_std`.

`official_{semantic_fpn,upernet}_tiny_{96x160,125x167}.npz` was computed with mmsegmentation
0.30.0 around the authors' dense backbone, on `inputs(3, (2, H, W, 3))` and
`class_maps((H, W))`: maps sampled by `sample_level`, with `_shape` and `_mean`: `neck2` to
`neck5`; `ppm`, UperNet's pyramid pooling; `logits` at stride 4, `aux_logits` at 16; `resized` to
the image, `rescaled` from there to (int(1.5 H), int(1.25 W)). `eval_loss_ce` and `eval_acc_seg`
(%); `train_...` in training mode, the auxiliary loss times 0.4; `gradient_norms` of its total in
`gradient_keys`; `bn_means_after_one_step`, means of the moving statistics `bn_keys`.
`state_dict_shapes_tasks.json` holds the keys beside the backbone's.

`official_retinanet_tiny_{96x160,125x167}.npz` was computed with mmdetection 2.28.2 around the
same backbone, on `detection_batch(arrays)`, three pictures of which the second has no object and
the third is smaller: `batch_image_shapes`, and `batch_pad_shapes` with its own padding. Maps by
pyramid level, sampled by `sample_level`, with `_shape` and `_mean`: `neck3` to `neck7`, `cls3`,
`box3` and so on. Anchors by level (`anchors0`: `_shape`, first and last 12, `_sum`);
`valid_counts` of them by picture and level. Of picture i `assigni_counts` (positive, negative,
neutral), `assigni_anchor` and `assigni_gt`, the positive ones and their objects,
`assigni_iou_sum`, `targeti_deltas`, `targeti_labels`. `loss_cls_levels`, `loss_bbox_levels`,
`loss_normaliser`; `loss_image0` and `loss_image1` of these pictures alone. `candidates` above the
score of 0.05 by picture and level; `deti` (boxes and scores) and `deti_labels`; `rescaledi`, the
first 20 in original pixels. `gradient_norms` of the total loss in `gradient_keys`.

`official_mask_rcnn_tiny_{96x160,125x167}.npz` likewise; nothing is random there, as its samplers
keep all. `neck2` to `neck6`, `rpn_cls2`, `rpn_box2` and so on; `rpn_assigni_...`,
`rpn_targeti_...`, `loss_rpn_...` by `rpn_loss_normaliser`; `proposalsi` (100), their `_count` and
`_sum`, of training `train_proposalsi_...`. `rois` (24, 5), images and boxes: the first without
area, the second of a scale of exactly 112; `roi_levels`; `roi7_sampling0` (adaptive, what the
heads' outputs are of) and `roi7_sampling2`, [..., ::32], and `roi14_...`, [:10, ::2, ::2, ::32],
with `_box_means`; `roi_cls`, `roi_box`, [:, ::8], `roi_mask`, [:10, ::4, ::4, ::5], with
`roi_mask_box_means`. `rcnn_positives`, `rcnn_negatives`, `rcnn_posi_boxes`, `rcnn_posi_gt`;
`rcnn_target_labels`, `rcnn_target_deltas`; `rcnn_loss_...`. Of ellipses in the true boxes:
`gti_mask_areas`, `mask_targets_sums`, and the first 20 as bits. `deti`, `rescaledi`;
`maski_logits` of the first 4, `maski_bits` of the first 12, pasted, `rescaled_maski_...`.
"""

import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data"


@functools.cache
def state_dict_shapes():
    """Shapes by form ("classification", "dense"), variant and key."""
    return json.loads((DATA / "state_dict_shapes.json").read_text())


def state_dict(form, variant):
    """The seeded weights of a variant as the authors' state dict.

    Args:
        form: "classification" or "dense".
        variant: "lite" (classification only), "tiny", "small" or "base".

    Returns:
        Dict of float32 NumPy arrays in PyTorch's layout, in the authors' order.
    """
    return {
        key: seeded_value(key, tuple(shape))
        for key, shape in state_dict_shapes()[form][variant].items()
    }


def task_state_dict(name):
    """The seeded weights of a network on the tiny backbone, as mmseg's or mmdet's.

    Args:
        name: `"semantic_fpn"`, `"upernet"`, `"retinanet"` or `"mask_rcnn"`.
    """
    shapes = json.loads((DATA / "state_dict_shapes_tasks.json").read_text())[name]
    backbone = {f"backbone.{key}": v for key, v in state_dict("dense", "tiny").items()}
    heads = {key: seeded_value(key, tuple(shape)) for key, shape in shapes.items()}
    if name == "retinanet":  # so that there are few detections
        heads["bbox_head.retina_cls.weight"] *= 6
        heads["bbox_head.retina_cls.bias"] -= 8
    if name == "mask_rcnn":  # so that few are not the background, and masks have edges
        heads["roi_head.bbox_head.fc_cls.weight"] *= 3
        heads["roi_head.bbox_head.fc_cls.bias"][80] += 12
        heads["roi_head.mask_head.conv_logits.weight"] *= 4
    return {**backbone, **heads}


def seeded_value(key, shape):
    """The array of one key of a state dict, in PyTorch's layout."""
    if key.endswith("num_batches_tracked"):
        return np.array(0)
    noise = np.random.default_rng(zlib.crc32(key.encode())).standard_normal(shape)
    noise = noise.astype("float32")
    if key.endswith("running_var"):
        value = 1 + 0.1 * abs(noise)
    elif key.endswith("running_mean"):
        value = 0.1 * noise
    elif ("norm" in key or ".bn." in key) and key.endswith("weight"):
        value = 1 + 0.1 * noise
    elif key.endswith("bias"):
        value = 0.1 * noise
    elif key.endswith("win_tokens"):
        value = 0.5 * noise
    else:
        value = noise / math.sqrt(math.prod(shape[1:]))
    return value.astype("float32")


def inputs(seed, shape):
    """Seeded normalised images of shape (batch, height, width, 3), float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def class_maps(size):
    """Seeded classes of 150, (2, height, width), a tenth of them 255; blocks of 16 pixels."""
    height, width = size
    rng = np.random.default_rng(4)
    maps = rng.integers(0, 150, (2, math.ceil(height / 16), math.ceil(width / 16)))
    maps = maps.repeat(16, 1).repeat(16, 2)[:, :height, :width]
    maps[rng.random((2, height, width)) < 0.1] = 255
    return maps


def detection_batch(expected):
    """Images and targets of a detector's arrays: boxes and labels padded with -1, and sizes."""
    shapes, pictures = expected["batch_image_shapes"], range(3)
    images = inputs(int(expected["seed"]), (3, *shapes.max(axis=0), 3))
    boxes, labels = np.full((3, 6, 4), -1, "float32"), np.full((3, 6), -1, "int32")
    for i, (height, width) in zip(pictures, shapes, strict=True):
        images[i, height:], images[i, :, width:] = 0, 0
        count = len(expected[f"gt{i}_boxes"])
        boxes[i, :count], labels[i, :count] = expected[f"gt{i}_boxes"], expected[f"gt{i}_labels"]
    sizes = expected["batch_pad_shapes"].astype("int32")
    return images, {"boxes": boxes, "labels": labels, "sizes": sizes}


def load_expected(name):
    """The arrays of `tests/data/<name>.npz` as a dict."""
    with np.load(DATA / f"{name}.npz") as arrays:
        return dict(arrays)


def sample_stage(stage_map):
    """The positions and channels of a stage's map that the classification files hold."""
    step = max(stage_map.shape[1] // 7, 1)
    return stage_map[:, ::step, ::step, :: stage_map.shape[-1] // 16]


def sample_level(level_map):
    """The positions and channels of a pyramid level that the dense files hold."""
    _, height, width, channels = level_map.shape
    steps = (max(side // count, 1) for side, count in ((height, 7), (width, 9), (channels, 16)))
    return level_map[(slice(None), *(slice(None, None, step) for step in steps))]
