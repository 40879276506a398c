"""Makes the model that is exported: float32, of a fixed size, images in, answers out."""

import math

import keras

from keras_sepvit.classification.classifier import SepViTClassifier
from keras_sepvit.detection.detector import Detector
from keras_sepvit.detection.layers import Detections, MediaPipeLayout
from keras_sepvit.detection.mask_rcnn import MaskRCNN
from keras_sepvit.detection.prediction import image_size as detector_image_size
from keras_sepvit.export.deployment import (
    ClassMapDeployment,
    Deployment,
    DetectionsDeployment,
)
from keras_sepvit.layers import imagenet_normalization
from keras_sepvit.policy import dtype_policy
from keras_sepvit.record import OF_WHOLE_PHOTOS
from keras_sepvit.runtime.instances import INSTANCE_ANSWERS
from keras_sepvit.scores import activations, final_activation, normalizes_images
from keras_sepvit.segmentation.segmenter import ClassMap, ResizeTo, Segmenter, is_segmenter
from keras_sepvit.validation import check_choice, window_pair

# A dtype policy that computes in integers, made by `model.quantize`.
_QUANTIZED_POLICIES = ("QuantizedDTypePolicy", "QuantizedFloat8DTypePolicy", "GPTQDTypePolicy")

LAYOUTS = (None, "mediapipe")

_MOST_CLASSES = 255  # of class maps, which are uint8

# The name of a classifier's output by the activation of its last layer.
_SCORES = {"softmax": "probabilities", "sigmoid": "probabilities", "linear": "logits"}


def prepare(
    model,
    *,
    probabilities=True,
    normalize=False,
    activation=None,
    class_names=None,
    logits=False,
    image_size=None,
    raw=False,
    layout=None,
    score_threshold=None,
    iou_threshold=None,
    max_detections=None,
):
    """A model in the form in which it is deployed.

    Models under any dtype policy are exported in float32: their weights are
    copied into a model of the same architecture under the policy `"float32"`.
    A backbone, which has `pyramid_outputs`, gives these by name (`P2` to `P5`).
    A classifier gives `probabilities` (or `logits`), a segmenter `class_map`, uint8 (or
    `logits`), a detector `boxes`, `labels`, `confidence` and `num_detections` (or raw maps,
    `classes_P3`, `boxes_P3` and so on), an instance segmenter `masks`, too. Other outputs keep the
    names of a dict, or are named `features` (one) or `output_0`, `output_1` and so on.

    Args:
        model: A built functional or sequential Keras model of one image input.
        probabilities: Give a classifier of logits the activation that makes probabilities of
            them: what its record tells, else a softmax, of a single class a sigmoid.
        normalize: Put ImageNet's normalisation in front, for models that take
            normalised images (made with `include_preprocessing=False`, and
            backbones). The exported model then takes images of 0..255.
        activation: What makes probabilities of a classifier's outputs: `"softmax"`,
            `"sigmoid"`, or `"none"` where they are probabilities. By default the model tells.
        class_names: Optional names of the classes, in order.
        logits: Of a segmenter, give the logits of its head, at a quarter of the images' size.
        image_size: (height, width) of the images, for a model that takes any; of a detector by
            default its record's.
        raw: Of a detector, give its raw maps.
        layout: `"mediapipe"` to give a detector's answers as `MediaPipeLayout` does.
        score_threshold, iou_threshold, max_detections: Of a detector or instance segmenter, as
            for `retinanet_detections`; by default the model's.

    Returns:
        A `Deployment`.

    Raises:
        TypeError: if `model` is no Keras model.
        ValueError: if it is not built, has not one image input, takes any image size
            (without `image_size`) or another, is quantised, has a normalisation already
            (`normalize`), is no classifier (`activation`, `class_names`), segmenter
            (`class_names`, `logits`) or detector (`class_names`, `raw` and what follows), gives
            masks (`raw`, `layout`), or has another number of classes than names.
    """
    detects = isinstance(model, Detector)
    if detects and image_size is None:
        image_size = detector_image_size(model)
    height, width, channels = _check_image_model(model, image_size)
    normalizes = normalizes_images(model)
    if normalize and (normalizes or channels != 3):
        reason = (
            "it has a Normalization or Rescaling layer already"
            if normalizes
            else f"ImageNet's statistics are for 3 channels and it takes {channels}"
        )
        raise ValueError(f"`normalize=True` does not suit the model `{model.name}`: {reason}.")

    if logits and not is_segmenter(model):
        raise ValueError(
            f"`logits` is for segmenters, which `{model.name}` is not. A classifier gives them "
            "with `probabilities=False`."
        )
    suppression = {
        "score_threshold": score_threshold,
        "iou_threshold": iou_threshold,
        "max_detections": max_detections,
    }
    of_detectors = {"raw": raw or None, "layout": layout, **suppression}
    given = [name for name, value in of_detectors.items() if value is not None]
    if given and not detects:
        raise ValueError(f"`{given[0]}` is for detectors, which `{model.name}` is not.")
    segments = isinstance(model, MaskRCNN)
    if segments and given[:1] in (["raw"], ["layout"]):
        raise ValueError(
            f"`{given[0]}` is for detectors without masks; those of `{model.name}`, an instance "
            "segmenter, are of the boxes that it finds. Leave it out."
        )
    if raw and len(given) > 1:
        raise ValueError(f"`{given[1]}` is of detections; with `raw` there are none. Leave it out.")
    with dtype_policy("float32"):
        suppression = {n: v for n, v in suppression.items() if v is not None}
        network = _in_float32(model, suppression if segments else {})
        image = keras.Input((height, width, channels), dtype="float32", name="image")
        x = imagenet_normalization("normalization")(image) if normalize else image
        fields = {}
        if detects:
            task, classes = "instances" if segments else "detection", model.num_classes
            _refuse_activation(model, activation, OF_WHOLE_PHOTOS[task])
            fields["category_ids"] = getattr(getattr(model, "record", None), "category_ids", None)
        if segments:
            outputs, heads = _instances(network, x)
            fields["traced"] = keras.Model(image, {**outputs, **heads})
        elif detects:
            found = network(x)
            maps = _named_maps(model.anchors, found)
            if raw:
                activation, outputs = "linear", maps
            else:
                suppression = {**model.decoding, **suppression}
                outputs = _detections(model.anchors, found, (height, width), suppression, layout)
                fields["traced"] = keras.Model(image, {**outputs, **maps})
        elif is_segmenter(model):
            head_logits, pixel_logits = _logits_of_pixels(network, x, activation)
            task, activation, classes = "segmentation", None, pixel_logits.shape[-1]
            if logits:
                activation, outputs = "linear", {"logits": head_logits}
            else:
                outputs = {"class_map": ClassMap(name="class_map")(pixel_logits)}
        else:
            outputs, activation = _outputs(network, x, probabilities, activation)
            task, classes = "features", None
            if activation is not None:
                task, classes = "classification", next(iter(outputs.values())).shape[-1]
        fields |= {
            "model": keras.Model(image, outputs, name=f"{model.name}_deployed"),
            "image_shape": (height, width, channels),
            "takes_pixels": normalizes or normalize,
            "outputs": {name: tuple(tensor.shape[1:]) for name, tensor in outputs.items()},
            "activation": activation,
            "class_names": _check_class_names(class_names, classes),
            "task": task,
        }
        if "class_map" in outputs:
            return ClassMapDeployment(**fields, pixel_logits=keras.Model(image, pixel_logits))
    if "traced" in fields:
        return DetectionsDeployment(**fields)
    return Deployment(**fields)


def _check_image_model(model, image_size):
    """(height, width, channels) of the images for a model that can be exported."""
    if not isinstance(model, keras.Model):
        raise TypeError(
            f"`model` must be a Keras model. Received: {type(model).__name__}. To export a file, "
            "load it first, with `keras.saving.load_model`."
        )
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            f"The model `{model.name}` is not built, or does not know its input. Build it on "
            "`keras.Input((height, width, channels))`, as the functions of keras_sepvit do."
        )
    shapes = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            f"The model `{model.name}` must have one input of images, (batch, height, width, "
            f"channels). Received a model with the input shapes {shapes}."
        )
    _, *own, channels = shapes[0]
    size = own if image_size is None else window_pair("image_size", image_size)
    if None in (*size, channels):
        raise ValueError(
            f"The model `{model.name}` takes images of {(*own, channels)}; exported models have a "
            "fixed size. Give it as `image_size=(height, width)`."
        )
    if any(side not in (None, given) for side, given in zip(own, size, strict=True)):
        raise ValueError(
            f"The model `{model.name}` takes images of {own[0]} x {own[1]}. Received: "
            f"image_size={image_size!r}. Leave it out."
        )
    return (*size, channels)


def _logits_of_pixels(model, x, activation):
    """A segmenter's logits for images, as its head gives them and at the images' size."""
    _refuse_activation(model, activation, OF_WHOLE_PHOTOS["segmentation"])
    logits = model.head_logits if isinstance(model, Segmenter) else model.outputs[0]
    if not 2 <= logits.shape[-1] <= _MOST_CLASSES:
        raise ValueError(
            f"Class maps are of 2 to {_MOST_CLASSES} classes; `{model.name}` has "
            f"{logits.shape[-1]}."
        )
    logits = keras.Model(model.inputs, logits, name=model.name)(x)
    return logits, ResizeTo(name="pixel_logits")([logits, x])


def _refuse_activation(model, activation, kind):
    if activation is not None:
        raise ValueError(f"`activation` is for classifiers; `{model.name}` is {kind}.")


def _named_maps(anchors, found):
    """A detector's raw maps by name: `classes_P3`, `boxes_P3`, `classes_P4` and so on."""
    levels = [int(math.log2(stride)) for stride in anchors.strides]
    return {
        f"{name}_P{level}": tensor
        for name, maps in found.items()
        for level, tensor in zip(levels, maps, strict=True)
    }


def _detections(anchors, found, image_size, suppression, layout):
    """A detector's answers by name, in a layout."""
    answers = Detections(anchors, **suppression)(found, image_size=image_size)
    if check_choice("layout", layout, LAYOUTS) is None:
        return answers
    return MediaPipeLayout()(answers, image_size=image_size)


def _instances(network, x):
    """A Mask R-CNN's answers, and what its heads of boxes give, tensors by name."""
    heads = {
        f"{head}_{number}": tensor
        for head in ("rpn_head", "bbox_head")
        for number, tensor in enumerate(network.get_layer(head).output)
    }
    found = keras.Model(network.inputs, {**network.output, **heads}, name=network.name)(x)
    return [{name: found[name] for name in names} for names in (INSTANCE_ANSWERS, heads)]


def _outputs(model, x, probabilities, activation):
    """Outputs by name for images, and the activation of a classifier's, None for others."""
    if hasattr(model, "pyramid_outputs") and not isinstance(model, SepViTClassifier):
        model = keras.Model(model.inputs, model.pyramid_outputs, name=model.name)
    outputs = model(x)
    scores = keras.utils.is_keras_tensor(outputs) and len(outputs.shape) == 2
    if activation is not None and not scores:
        raise ValueError("`activation` is for classifiers; this model gives no scores of classes.")
    if scores and (activation or getattr(model, "record", None) or final_activation(model)):
        activation, missing = activations(model, activation)
        if missing != "none" and probabilities:
            outputs = keras.layers.Activation(missing, name=missing)(outputs)
        elif missing != "none":
            activation = "linear"
    return _named_outputs(outputs, activation), activation


def _in_float32(model, changes):
    """`model`, or a copy of it under the policy "float32" where its policy is another.

    Args:
        model: The model.
        changes: Arguments of its class that are others in the copy, by name.
    """
    policies = {layer.dtype_policy.name for layer in model._flatten_layers()}
    if policies <= {"float32"} and not changes:
        return model
    config = _with_float32_policies(keras.saving.serialize_keras_object(model))
    config["config"] |= changes
    copy = keras.saving.deserialize_keras_object(config)
    copy.record = getattr(model, "record", None)
    for weight, source in zip(copy.weights, model.weights, strict=True):
        # Copied: JAX would share the array, and `predict` of one model deletes it for both.
        value = keras.ops.convert_to_numpy(keras.ops.cast(source, weight.dtype))
        weight.assign(value.copy())
    return copy


def _with_float32_policies(config):
    """A serialised object in which every dtype policy is "float32"."""
    if isinstance(config, list | tuple):
        return type(config)(map(_with_float32_policies, config))
    if not isinstance(config, dict):
        return config
    name = config.get("class_name")
    if name in _QUANTIZED_POLICIES:
        raise ValueError(
            "The model is quantised by Keras (`model.quantize`). Export the float model, with the "
            "format's own `quantize` argument."
        )
    if name in ("DTypePolicy", "DTypePolicyMap"):
        return keras.dtype_policies.serialize(keras.DTypePolicy("float32"))
    return {key: _with_float32_policies(value) for key, value in config.items()}


def _named_outputs(outputs, activation):
    """A model's outputs as a dict by name; `activation` is that of a classifier's head."""
    if keras.utils.is_keras_tensor(outputs):
        return {_SCORES.get(activation, "features"): outputs}
    if not isinstance(outputs, dict):
        outputs = {f"output_{index}": tensor for index, tensor in enumerate(outputs)}
    nested = [name for name, x in outputs.items() if not keras.utils.is_keras_tensor(x)]
    if nested:
        raise ValueError(
            f"The model's outputs {nested} are nested. Make a model whose outputs are one tensor, "
            "a list of tensors or a dict of tensors."
        )
    return dict(outputs)


def _check_class_names(class_names, classes):
    """Names of so many classes as a tuple, or None; `classes` is None for other models."""
    if class_names is None:
        return None
    class_names = tuple(class_names)
    if not all(isinstance(name, str) and name and "\n" not in name for name in class_names):
        raise ValueError("`class_names` must be strings of one line each, none of them empty.")
    if classes is None:
        raise ValueError("`class_names` are for classifiers; this model gives none of classes.")
    if len(class_names) != classes:
        raise ValueError(
            f"`class_names` must name each of the model's {classes} classes. "
            f"Received: {len(class_names)} names."
        )
    return class_names
