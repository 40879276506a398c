"""What segmenters and detectors share: a model of a backbone and heads that has its own loss."""

import inspect

import keras

from keras_sepvit.composite import dtype_config
from keras_sepvit.devices import replicas
from keras_sepvit.record import Recorded
from keras_sepvit.stages import ImageModelMixin, freeze_layers, frozen_layers
from keras_sepvit.validation import check_names
from keras_sepvit.weights import check_pretrained, load_pretrained


class TaskModel(ImageModelMixin, Recorded, keras.Model):
    """A functional model of a backbone and heads, trained by a loss of its own.

    A subclass has `_loss_in_words`, what its loss is and what to do instead of giving one;
    `_loss_pairs(x, y, y_pred)`, pairs of total and weight by name; and `_check_targets(y)`, which
    refuses arrays that compiled steps cannot.

    Args:
        backbone: A model with `pyramid_outputs`.
        outputs: Keras tensors on it.
        policy: Dtype policy of the heads.
        config: The arguments of the subclass beside the backbone, by name.
        **kwargs: `name` and `trainable` of `keras.Model`.
    """

    _loss_in_words = ""

    def __init__(self, backbone, outputs, policy, config, **kwargs):
        super().__init__(inputs=backbone.inputs[0], outputs=outputs, **kwargs)
        self.dtype_policy = policy
        self.backbone = backbone
        self._config = config

    @property
    def image_shape(self) -> tuple[int | None, ...]:
        """(height, width, channels) of the images, with None for any size."""
        return self.input_shape[1:]

    def _begin(self, weights):
        """Freezes what is to be, and loads `weights` unless they are None."""
        freeze_layers(self, self._all_layers())
        if weights is not None:
            load_pretrained(self, weights, skip_head_mismatch=True)

    def _all_layers(self):
        """Those of the graph; others too where a subclass has them."""
        return self.layers

    def compile(self, optimizer="rmsprop", loss=None, **kwargs):
        """As Keras's, without `loss`: the model has its own."""
        if loss is not None:
            self._refuse("`loss`")
        super().compile(optimizer, **kwargs)

    def _refuse(self, what):
        raise ValueError(f"`{self.name}` has its own loss, {self._loss_in_words.format(what=what)}")

    def fit(self, x=None, y=None, *args, **kwargs):
        self._check_targets(y)
        held_out = kwargs.get("validation_data")
        if isinstance(held_out, (tuple, list)) and len(held_out) > 1:
            self._check_targets(held_out[1])
        return super().fit(x, y, *args, **kwargs)

    def evaluate(self, x=None, y=None, *args, **kwargs):
        self._check_targets(y)
        return super().evaluate(x, y, *args, **kwargs)

    def train_on_batch(self, x, y=None, *args, **kwargs):
        self._check_targets(y)
        return super().train_on_batch(x, y, *args, **kwargs)

    def test_on_batch(self, x, y=None, *args, **kwargs):
        self._check_targets(y)
        return super().test_on_batch(x, y, *args, **kwargs)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if sample_weight is not None:
            self._refuse("`sample_weight`")
        pairs = self._loss_pairs(x, y, y_pred).values()
        # Keras adds up the gradients of TensorFlow's replicas.
        return sum(total / weight for total, weight in pairs) / replicas()

    def get_config(self):
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": dtype_config(self),
            "backbone": keras.saving.serialize_keras_object(self.backbone),
            **self._config,
            **frozen_layers(self, self._all_layers()),
        }

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        frozen = config.pop("frozen_layers", None)
        backbone = keras.saving.deserialize_keras_object(config.pop("backbone"))
        model = cls(backbone, **config)
        freeze_layers(model, model._all_layers(), frozen)
        return model


def check_arguments(model_class, weights, others):
    """Refuses what can be told before a model is built; `others` are its `**kwargs`."""
    known = [*inspect.signature(model_class).parameters][:-1] + ["name", "trainable"]
    check_names(model_class.__name__, others, known)
    check_pretrained(weights)
