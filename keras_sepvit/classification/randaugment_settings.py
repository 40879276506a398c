"""Settings of RandAugment, and timm's notation of them. Without TensorFlow."""

import dataclasses
import numbers
import re

from keras_sepvit.configs import MEAN_COLOUR
from keras_sepvit.record import INTERPOLATIONS
from keras_sepvit.validation import check_choice, check_range, positive_int

LARGEST_MAGNITUDE = 10


@dataclasses.dataclass(frozen=True)
class RandAugmentSettings:
    """What `RandAugment` does to images.

    Attributes:
        magnitude: Mean magnitude, 0 to 10. timm's `m`.
        operations: Operations drawn for an image. timm's `n`.
        magnitude_std: Standard deviation of the magnitude, 0 to 100. timm's `mstd`.
        increasing: Whether posterise, solarise and the enhancements grow stronger with
            the magnitude. timm's `inc`.
        probability: That of applying each drawn operation, 0 to 1. timm's `p`.
        interpolation: `"bilinear"`, `"bicubic"`, or `"random"`, one of the two at a time.
        fill: Colour of what lies outside the image, three integers of 0 to 255. The
            default is ImageNet's mean.

    Raises:
        ValueError: if an attribute is out of its range.
    """

    magnitude: float = 10
    operations: int = 2
    magnitude_std: float = 0.0
    increasing: bool = False
    probability: float = 0.5
    interpolation: str = "random"
    fill: tuple = MEAN_COLOUR

    def __post_init__(self):
        check_range("magnitude", self.magnitude, 0, LARGEST_MAGNITUDE)
        positive_int("operations", self.operations)
        check_range("magnitude_std", self.magnitude_std, 0, 100)
        check_range("probability", self.probability, 0, 1)
        check_choice("interpolation", self.interpolation, (*INTERPOLATIONS, "random"))
        object.__setattr__(self, "fill", tuple(self.fill))
        if len(self.fill) != 3 or not all(
            isinstance(x, numbers.Integral) and 0 <= x <= 255 for x in self.fill
        ):
            raise ValueError(
                f"`fill` must be three integers of 0 to 255. Received: fill={self.fill!r}."
            )

    @classmethod
    def from_string(cls, text, **kwargs):
        """Reads timm's notation, such as `"rand-m9-mstd0.5-inc1"`.

        Args:
            text: `rand`, then any of `m` (magnitude, an integer), `n` (operations),
                `mstd`, `inc` (0 or 1) and `p` (probability), each with its number.
            **kwargs: Other attributes.

        Raises:
            ValueError: if the text is not of that form, or a number out of range.
        """
        expected = (
            "Expected 'rand' followed by any of 'm', 'n', 'mstd', 'inc' and 'p', each once and "
            "with a number, such as 'rand-m9-mstd0.5-inc1'."
        )
        if not isinstance(text, str) or text.split("-")[0] != "rand":
            raise ValueError(f"Unknown augmentation: {text!r}. {expected}")
        values = {}
        for section in text.split("-")[1:]:
            match = re.fullmatch(r"([a-z]+)(\d+(?:\.\d+)?)", section)
            key = match[1] if match else None
            if key not in _SECTIONS or key in values:
                what = "Repeated" if key in values else "Unknown"
                raise ValueError(f"{what} section {section!r} in {text!r}. {expected}")
            try:
                values[key] = _SECTIONS[key][1](match[2])
            except (KeyError, ValueError):
                raise ValueError(f"Bad number in section {section!r} of {text!r}.") from None
        return cls(**{_SECTIONS[key][0]: value for key, value in values.items()}, **kwargs)


def _flag(text):
    return {"0": False, "1": True}[text]


# By key in timm's notation: the attribute, and how to read its number.
_SECTIONS = {
    "m": ("magnitude", int),
    "n": ("operations", int),
    "mstd": ("magnitude_std", float),
    "inc": ("increasing", _flag),
    "p": ("probability", float),
}
