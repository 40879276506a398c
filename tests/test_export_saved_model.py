"""SavedModels, run by TensorFlow without Keras."""

import json

import numpy as np
import pytest
from export_helpers import IMAGE_SHAPE, linear_model, noise, predict
from helpers import to_numpy
from PIL import Image

from keras_sepvit.export import ExportError, default_images, saved_model, to_saved_model
from keras_sepvit.runtime import read_image

tf = pytest.importorskip("tensorflow")


@pytest.mark.by_default_on("tensorflow")
def test_a_saved_model_runs_without_keras(tmp_path):
    model = linear_model(image_shape=IMAGE_SHAPE)
    path = tmp_path / "served"
    images = noise(3)
    names = ["one", "two", "three"]
    how = {"crop": 1.0, "interpolation": "bilinear"}
    report = to_saved_model(model, path, images=images, class_names=names, verbose=False, **how)
    assert report.max_error < 1e-4 and report.top1_agreement == 1 and report.images == 3
    assert report.operators["MatMul"] == 1 and report.notes == ()
    assert report.size_bytes == sum(f.stat().st_size for f in path.rglob("*") if f.is_file())
    assert (path / "assets.extra" / "labels.txt").read_text().splitlines() == names

    record = json.loads((path / "assets.extra" / "keras_sepvit.json").read_text())
    assert {name: record[name] for name in how} == how

    served = tf.saved_model.load(str(path))
    assert sorted(served.signatures) == ["encoded", "serve", "serving_default"]
    for kept, weight in zip(served.trainable_variables, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(kept, to_numpy(weight))
    expected = predict(model, images)
    for count in (1, 3):  # any batch
        found = served.signatures["serving_default"](image=tf.constant(images[:count]))
        np.testing.assert_allclose(found["probabilities"], expected[:count], atol=1e-5)

    photos = []
    for name, size in (("a.jpg", (150, 211)), ("b.png", (90, 64))):
        pixels = default_images((*size, 3), 1, seed=len(photos))[0].astype("uint8")
        Image.fromarray(pixels).save(tmp_path / name)
        photos.append(tmp_path / name)
    pixels = np.stack([read_image(photo, *IMAGE_SHAPE, **how) for photo in photos])
    found = served.signatures["encoded"](
        image_bytes=tf.constant([photo.read_bytes() for photo in photos])
    )
    # Both round to whole pixels, at times to neighbouring ones.
    np.testing.assert_allclose(
        found["probabilities"], predict(model, pixels.astype("float32")), atol=5e-3
    )


@pytest.mark.once("tensorflow")
@pytest.mark.parametrize(
    ("size", "how"),
    [((300, 200), (0.875, "bicubic")), ((50, 180), (1.0, "bilinear"))],
)
def test_encoded_images_are_read_as_in_the_evaluation(tmp_path, size, how):
    pixels = default_images((*size, 3), 1)[0].astype("uint8")
    path = tmp_path / "photo.png"
    Image.fromarray(pixels).save(path)
    found = saved_model._decode(path.read_bytes(), 64, 48, 3, *how).numpy()
    expected = read_image(path, 64, 48, 3, *how).astype("float32")
    # Pillow rounds and clips between its two passes, which shows at hard edges.
    assert np.abs(found - expected).max() <= 6 and np.abs(found - expected).mean() < 0.3


@pytest.mark.thorough
@pytest.mark.once("tensorflow")
def test_what_fails_in_plain_tensorflow_is_told(tmp_path, monkeypatch):
    def broken(model, output, **arguments):
        with open(f"{output}/saved_model.pb", "w") as file:
            file.write("half")

    monkeypatch.setattr(saved_model, "convert", broken)
    with pytest.raises(ExportError, match="fails in plain TensorFlow"):
        to_saved_model(linear_model(), tmp_path / "served")
    assert not list(tmp_path.iterdir())
