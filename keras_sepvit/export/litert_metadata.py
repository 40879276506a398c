"""What LiteRT files say about themselves: the record, and TensorFlow Lite's own metadata.

The latter are a flatbuffer inside of the model's (`metadata_schema.fbs` of
https://github.com/tensorflow/tflite-support), by which MediaPipe and ML Kit know how to
normalise images and what classes are called. Files that belong to the model are in a zip
archive behind it.
"""

import functools
import pathlib
import zipfile

import numpy as np

from keras_sepvit.configs import IMAGENET_MEAN, IMAGENET_VARIANCE
from keras_sepvit.record import RECORD_NAME
from keras_sepvit.runtime.detector import ANSWERS, MEDIAPIPE
from keras_sepvit.runtime.instances import INSTANCE_ANSWERS
from keras_sepvit.runtime.litert import LABELS_MEMBER

_NAME = "TFLITE_METADATA"
_IDENTIFIER = b"M001"
_PARSER_VERSION = "1.0.0"

# Of the schema: members of unions and enumerations.
_FEATURE, _IMAGE, _BOX = 1, 2, 3
_NORMALIZATION = 1
_BOUNDARIES = 1  # boxes by their sides
_CORNERS = np.array([1, 0, 3, 2], "uint32")  # where left, top, right and bottom are
_AXIS_LABELS, _VALUE_LABELS = 2, 3
_COLOR_SPACES = {3: 1, 1: 2}  # by the number of channels


def add_metadata(path, record):
    """Puts metadata and the files that belong to a model into its LiteRT file.

    Args:
        path: The file, which is rewritten.
        record: Its `Record`.
    """
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    class Buffer(schema.BufferT):
        """Data at multiples of 16 bytes, which the schema asks for and Python's code forgets."""

        def Pack(self, builder):
            if self.data is not None and len(self.data):
                builder.Prep(16, len(self.data))
            return super().Pack(builder)

    path = pathlib.Path(path)
    content = path.read_bytes()
    model = schema.ModelT.InitFromPackedBuf(content)
    for buffer in model.buffers:
        buffer.__class__ = Buffer
        if buffer.offset:  # ai-edge-quantizer puts large ones behind the flatbuffer
            buffer.data = np.frombuffer(content, "uint8", buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    names = _order_outputs(model) if record.task in ("detection", "instances") else None
    metadata = _metadata(record, len(model.subgraphs[0].outputs), names)
    entry = schema.MetadataT()
    entry.name, entry.buffer = _NAME, len(model.buffers)
    model.buffers.append(Buffer(data=np.frombuffer(metadata, "uint8")))
    model.metadata = [*(model.metadata or ()), entry]
    builder = flatbuffers.Builder(len(content) + 2**20)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(builder.Output())
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        # Entries of a fixed date: the same file each time.
        archive.writestr(zipfile.ZipInfo(RECORD_NAME), record.to_json())
        if record.class_names is not None:
            labels = "".join(f"{name}\n" for name in record.class_names)
            archive.writestr(zipfile.ZipInfo(LABELS_MEMBER), labels)


def _order_outputs(model):
    """Puts the outputs of boxes into the order of their layout, and returns their names."""
    tensors = {
        output.name.decode(): output.tensorIndex for output in model.signatureDefs[0].outputs
    }
    for layout in (MEDIAPIPE, ANSWERS, INSTANCE_ANSWERS):
        if tensors.keys() == layout.keys():
            tensors = {name: tensors[name] for name in layout}
    model.subgraphs[0].outputs = [*tensors.values()]
    return [*tensors]


def _metadata(record, outputs, names):
    """The metadata of a model of so many outputs, as bytes; `names` are a detector's outputs'."""
    import flatbuffers

    builder = flatbuffers.Builder()
    output = [_features if record.task == "features" else _scores] * outputs
    if names is not None:
        output = [functools.partial(_of_detector, name=name) for name in names]
    name = builder.CreateString(f"keras_sepvit, {record.task}")
    version = builder.CreateString(record.version)
    parser = builder.CreateString(_PARSER_VERSION)
    inputs = _vector(builder, [_image(builder, record)])
    outputs = _vector(builder, [tensor(builder, record) for tensor in output])
    fields = {2: inputs, 3: outputs}
    if names == [*MEDIAPIPE]:
        group = {0: builder.CreateString("detection_result")}
        group[1] = _vector(builder, [builder.CreateString(name) for name in names[:3]])
        fields[8] = _vector(builder, [_table(builder, 2, group)])
    graph = _vector(builder, [_table(builder, 9, fields)])
    root = _table(builder, 8, {0: name, 2: version, 3: graph, 7: parser})
    builder.Finish(root, _IDENTIFIER)
    return bytes(builder.Output())


def _image(builder, record):
    """The metadata of the input: colours, normalisation, range."""
    lowest, highest = np.zeros(1), np.full(1, 255.0)
    mean, deviation = np.zeros(1), np.ones(1)
    if record.pixels == "imagenet":
        mean, deviation = np.array(IMAGENET_MEAN), np.sqrt(IMAGENET_VARIANCE)
    properties = _table(builder, 2, numbers={0: _COLOR_SPACES.get(record.channels, 0)})
    fields = {0: builder.CreateString("image"), 3: _content(builder, _IMAGE, properties)}
    if record.pixels != "unknown":
        options = {0: _floats(builder, mean), 1: _floats(builder, deviation)}
        options = _table(builder, 2, options)
        unit = _table(builder, 2, {1: options}, numbers={0: _NORMALIZATION})
        fields[4] = _vector(builder, [unit])
        ends = [_floats(builder, (end - mean) / deviation) for end in (highest, lowest)]
        fields[5] = _table(builder, 2, dict(enumerate(ends)))
    return _table(builder, 7, fields)


def _scores(builder, record):
    """The metadata of a classifier's or segmenter's output: names of classes, range."""
    fields = {0: builder.CreateString("logits" if record.activation else "class_map")}
    if record.activation in ("softmax", "sigmoid"):
        ends = [_floats(builder, np.full(1, end)) for end in (1.0, 0.0)]
        fields = {0: builder.CreateString("probabilities")}
        fields[5] = _table(builder, 2, dict(enumerate(ends)))
    fields[3] = _content(builder, _FEATURE, _table(builder, 0))
    if record.class_names is not None:
        kind = _AXIS_LABELS if record.activation else _VALUE_LABELS
        fields[6] = _vector(builder, [_label_file(builder, kind)])
    return _table(builder, 7, fields)


def _of_detector(builder, record, name):
    """The metadata of one of a detector's outputs, as MediaPipe's ObjectDetector reads them."""
    fields = {0: builder.CreateString(name.replace("_", " ") if name in MEDIAPIPE else name)}
    if name == "location":
        order = {0: builder.CreateNumpyVector(_CORNERS)}
        box = _table(builder, 3, order, numbers={1: _BOUNDARIES})
        fields[3] = _content(builder, _BOX, box)
    else:
        fields[3] = _content(builder, _FEATURE, _table(builder, 0))
    if name in ("category", "labels") and record.class_names is not None:
        fields[6] = _vector(builder, [_label_file(builder, _VALUE_LABELS)])
    return _table(builder, 7, fields)


def _label_file(builder, kind):
    return _table(builder, 4, {0: builder.CreateString(LABELS_MEMBER)}, numbers={2: kind})


def _features(builder, record):
    return _table(builder, 7, {3: _content(builder, _FEATURE, _table(builder, 0))})


def _content(builder, kind, properties):
    return _table(builder, 3, {1: properties}, numbers={0: kind})


def _table(builder, size, offsets=(), numbers=()):
    """A table of `size` fields: by their places, offsets of what is written already, and bytes."""
    builder.StartObject(size)
    for place, offset in dict(offsets).items():
        builder.PrependUOffsetTRelativeSlot(place, offset, 0)
    for place, number in dict(numbers).items():
        builder.PrependUint8Slot(place, number, 0)
    return builder.EndObject()


def _vector(builder, offsets):
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _floats(builder, values):
    return builder.CreateNumpyVector(np.asarray(values, "float32"))
