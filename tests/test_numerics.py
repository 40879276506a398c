"""Agreement with the authors' PyTorch code, on seeded weights and images."""

import keras
import numpy as np
import pytest
from helpers import run, symbolic
from reference import inputs, load_expected, sample_level, sample_stage, state_dict
from safetensors.numpy import save_file

from keras_sepvit import SepViT, SepViTBackbone, variant_config
from keras_sepvit.weights import load_weights

TOLERANCE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The path of a file with the authors' seeded weights, by form and variant."""
    folder = tmp_path_factory.mktemp("checkpoints")

    def path_of(form, variant):
        path = folder / f"{form}_{variant}.safetensors"
        if not path.exists():
            save_file(state_dict(form, variant), path)
        return path

    return path_of


@pytest.mark.parametrize("variant, ours", [("lite", "sepvit_lite"), ("tiny", "sepvit_t")])
def test_classification_form(variant, ours, checkpoint):
    model = SepViT(ours, include_preprocessing=False, classifier_activation=None)
    report = load_weights(model, checkpoint("classification", variant))
    assert len(report.assigned) == len(model.trainable_weights)
    # The maps after each stage's last block: in stage 1, of one block, before its PEG.
    stages = {
        f"stage{stage}": f"stage{stage}_block{depth}"
        for stage, depth in enumerate(variant_config(ours).depths, start=1)
    }
    outputs = {stage: model.get_layer(layer).output for stage, layer in stages.items()}
    outputs["logits"] = model.output

    results = run(keras.Model(model.input, outputs), inputs(0, (2, 224, 224, 3)))

    expected = load_expected(f"official_classification_{variant}")
    assert np.abs(expected["logits"]).max() > 1, "logits near zero would agree with anything"
    np.testing.assert_allclose(results["logits"], expected["logits"], **TOLERANCE)
    for stage in stages:
        assert results[stage].shape == tuple(expected[f"{stage}_shape"])
        np.testing.assert_allclose(
            sample_stage(results[stage]), expected[stage], **TOLERANCE, err_msg=stage
        )


@pytest.mark.parametrize("static", [True, False], ids=["static", "dynamic"])
@pytest.mark.parametrize("size", [(224, 224), (250, 333)], ids=["224x224", "250x333"])
def test_dense_form(size, static, checkpoint):
    image_shape = (*size, 3) if static else (None, None, 3)
    backbone = SepViTBackbone.from_variant("sepvit_t", dense=True, image_shape=image_shape)
    report = load_weights(backbone, checkpoint("dense", "tiny"))
    assert len(report.assigned) == len(backbone.trainable_weights)
    model = keras.Model(backbone.input, backbone.pyramid_outputs)

    levels = run(model if static else symbolic(model), inputs(1, (1, *size, 3)))

    expected = load_expected(f"official_dense_tiny_{size[0]}x{size[1]}")
    assert list(levels) == ["P2", "P3", "P4", "P5"]
    for level, value in levels.items():
        assert value.shape == tuple(expected[f"{level}_shape"])
        np.testing.assert_allclose(sample_level(value), expected[level], **TOLERANCE, err_msg=level)
        np.testing.assert_allclose(value.mean(), expected[f"{level}_mean"], **TOLERANCE)
        np.testing.assert_allclose(value.std(), expected[f"{level}_std"], **TOLERANCE)
