"""Small data sets of generated images, in the layouts that users have."""

import contextlib
import dataclasses
import functools
import io
import json
import pathlib
import tarfile
import tempfile

import numpy as np
import pytest
from PIL import Image

from keras_sepvit.configs import DIGITS_CONFIG

# For the digits recipe, whose time goes into tracing and compiling the network.
SMALL_DIGITS = dataclasses.replace(
    DIGITS_CONFIG,
    hidden_dims=(8, 8, 16, 16),
    depths=(1, 1, 1, 1),
    num_heads=(1, 1, 2, 2),
    window_sizes=((4,), (2,), (2,), (1,)),
)

# Real classes of ImageNet: their numbers are 0, 1, 207 and 999.
SYNSETS = ("n01440764", "n01443537", "n02099601", "n15075141")
SYNSET_NUMBERS = (0, 1, 207, 999)


def encoded_image(seed, height=40, width=48, format="JPEG", mode="RGB"):
    """Bytes of an image file: a coarse random pattern, another for each seed."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    rng = np.random.default_rng(seed)
    pattern = rng.integers(0, 256, (height // 8, width // 8, channels), "uint8").squeeze()
    image = Image.fromarray(pattern, mode).resize((width, height), Image.Resampling.NEAREST)
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def write_folder(folder, classes, per_class, seed=0):
    """Writes class folders of JPEG files, `0.jpg` and so on.

    Returns:
        The folder.
    """
    for number, class_name in enumerate(classes):
        (folder / class_name).mkdir(parents=True)
        for image in range(per_class):
            data = encoded_image((seed, number, image))
            (folder / class_name / f"{image}.jpg").write_bytes(data)
    return folder


def write_imagenet_archives(folder, train_per_class=3, validation=6):
    """Writes the archives of ImageNet in their layout, with few images.

    The training archive holds one archive a class, of `SYNSETS`; the validation
    archive holds images, whose classes are those of ImageNet's first ones.
    """
    folder.mkdir(parents=True)
    with tarfile.open(folder / "ILSVRC2012_img_train.tar", "w") as archive:
        for number, synset in enumerate(SYNSETS):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as class_archive:
                for image in range(train_per_class):
                    data = encoded_image((1, number, image))
                    _add(class_archive, f"{synset}_{image}.JPEG", data)
            _add(archive, f"{synset}.tar", inner.getvalue())
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as archive:
        for image in range(validation):
            _add(archive, f"ILSVRC2012_val_{image + 1:08}.JPEG", encoded_image((2, image)))


def _add(archive, name, data):
    entry = tarfile.TarInfo(name)
    entry.size = len(data)
    archive.addfile(entry, io.BytesIO(data))


@functools.cache
def imagenet():
    """A TFDS folder (`data_dir`) with `imagenet2012` of few images, made by its real builder.

    12 training images of 4 classes, 6 validation images. Made once in a process.
    """
    folder = _temporary_folder()
    write_imagenet_archives(folder / "downloads" / "manual")
    _prepare("imagenet2012", folder)
    return folder


@functools.cache
def imagenet_v2():
    """A TFDS folder with `imagenet_v2/matched-frequency`, made by its real builder.

    4 images, two of each of the classes 2 and 10.
    """
    folder = _temporary_folder()
    archive = _temporary_folder()
    write_folder(archive / "imagenetv2-matched-frequency-format-val", ("2", "10"), 2)
    with _downloads_replaced_by(archive):
        _prepare("imagenet_v2/matched-frequency", folder)
    return folder


@functools.cache
def imagenet_real(real_labels):
    """A TFDS folder with `imagenet2012_real`, made by its real builder.

    `real_labels` is a tuple of tuples, the labels of the images.
    """
    folder = _temporary_folder()
    write_imagenet_archives(folder / "downloads" / "manual", validation=len(real_labels))
    file = folder / "real.json"
    file.write_text(json.dumps(real_labels))
    with _downloads_replaced_by(file):
        _prepare("imagenet2012_real", folder)
    return folder


@functools.cache
def shapes():
    """A TFDS folder with the set `tiny_shapes`: 23 PNG images of 3 classes in 4 record files.

    An image is of one colour, its number.
    """
    import tensorflow_datasets as tfds

    class TinyShapes(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {
                "picture": tfds.features.Image(shape=(8, 8, 3), encoding_format="png"),
                "shape": tfds.features.ClassLabel(names=["circle", "square", "star"]),
                "note": tfds.features.Text(),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("picture", "shape"),
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number in range(23):
                picture = np.full((8, 8, 3), number, "uint8")
                yield number, {"picture": picture, "shape": number % 3, "note": "not needed"}

    folder = _temporary_folder()
    _prepare("tiny_shapes", folder, num_shards=4)
    return folder


def _prepare(name, folder, **options):
    import tensorflow_datasets as tfds

    tfds.disable_progress_bar()
    config = tfds.download.DownloadConfig(**options)
    tfds.builder(name, data_dir=folder).download_and_prepare(download_config=config)


@contextlib.contextmanager
def _downloads_replaced_by(path):
    """Gives builders `path` for whatever they download."""
    from tensorflow_datasets import download

    with pytest.MonkeyPatch.context() as patch:
        for method in ("download", "download_and_extract"):
            patch.setattr(download.DownloadManager, method, lambda manager, url: path)
        yield


_temporary_folders = []  # removed when the process ends


def _temporary_folder():
    folder = tempfile.TemporaryDirectory(prefix="keras_sepvit_data_")
    _temporary_folders.append(folder)
    return pathlib.Path(folder.name)


# Classes of rectangles.
COLOURS = {"red": (220, 40, 40), "green": (40, 200, 60), "blue": (50, 60, 230)}


def write_rectangles(folder, split, size, counts):
    """Adds grey photos with so many rectangles each to a folder in COCO's form, with polygons."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    file = folder / split / "_annotations.coco.json"
    content = {"images": [], "annotations": []}
    if file.exists():
        content = json.loads(file.read_text())
    content["categories"] = [{"id": 10 + i, "name": name} for i, name in enumerate(COLOURS)]
    for count in counts:
        number = len(content["images"])
        rng = np.random.default_rng((split == "train", number))
        photo = rng.integers(90, 130, (*size, 3), "uint8")
        image = {"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1]}
        content["images"].append(image)
        for _ in range(count):
            label, (height, width) = int(rng.integers(3)), rng.integers(16, 29, 2).tolist()
            top, left = (
                int(rng.integers(a - b + 1)) for a, b in zip(size, (height, width), strict=True)
            )
            photo[top : top + height, left : left + width] = [*COLOURS.values()][label]
            row = {"id": len(content["annotations"]), "image_id": number, "iscrowd": 0}
            row |= {"category_id": 10 + label, "bbox": [left, top, width, height]}
            right, bottom = left + width, top + height
            row["segmentation"] = [[left, top, right, top, right, bottom, left, bottom]]
            content["annotations"].append({**row, "area": width * height})
        Image.fromarray(photo).save(folder / split / f"{number}.png")
    file.write_text(json.dumps(content))
