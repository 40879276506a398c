"""KerasHub's own test harness on our backbone."""

from unittest import mock

import pytest
from helpers import TINY, images
from keras import ops

from keras_sepvit import SepViTBackbone

test_case = pytest.importorskip(
    "keras_hub.src.tests.test_case", reason="needs the `hub` extra: keras-hub[grain]"
)

pytestmark = [pytest.mark.hub, pytest.mark.by_default_on("torch")]


class SepViTBackboneTest(test_case.TestCase):
    def setUp(self):
        super().setUp()
        # The harness reads this attribute of KerasHub's base class, which is None for
        # every vision backbone.
        self.enterContext(mock.patch.object(SepViTBackbone, "token_embedding", None, create=True))
        self.init_kwargs = {
            "hidden_dims": TINY.hidden_dims,
            "depths": TINY.depths,
            "num_heads": TINY.num_heads,
            "window_sizes": TINY.window_sizes,
            "image_shape": (64, 64, 3),
        }
        self.input_data = ops.convert_to_tensor(images((2, 64, 64, 3)))

    def test_vision_backbone(self):
        for dense in (False, True):
            with self.subTest(dense=dense):
                self.run_vision_backbone_test(
                    cls=SepViTBackbone,
                    init_kwargs={**self.init_kwargs, "dense": dense},
                    input_data=self.input_data,
                    expected_output_shape=(2, 2, 2, 32),
                    expected_pyramid_output_keys=["P2", "P3", "P4", "P5"],
                    expected_pyramid_image_sizes=[(16, 16), (8, 8), (4, 4), (2, 2)],
                    # Both forms are made of the same layers: checked in one of them.
                    run_mixed_precision_check=not dense,
                    run_quantization_check=False,  # test_battery.py does
                    # SepViT takes channels-last images only.
                    run_data_format_check=False,
                )

    def test_saved_model(self):
        for dense in (False, True):
            with self.subTest(dense=dense):
                self.run_model_saving_test(
                    cls=SepViTBackbone,
                    init_kwargs={**self.init_kwargs, "dense": dense},
                    input_data=self.input_data,
                )
