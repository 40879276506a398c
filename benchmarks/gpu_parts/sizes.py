"""What is measured, and how large: on a GPU, and small for CPUs and tests."""

import dataclasses

from keras_sepvit.configs import SepViTConfig


@dataclasses.dataclass(frozen=True)
class DenseSizes:
    """Sizes of a dense task: (height, width), batch sizes of answers, and of training."""

    image_size: tuple
    batches: tuple
    train_batch: int


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sizes of all parts.

    Attributes:
        networks: SepViT's variants or configurations by name, small ones first.
        main: The name of the one that is measured most: T.
        timed: The names of those whose inference is timed.
        image_size: Height and width of classifiers' images.
        dense_size: (height, width) of the dense form's images.
        checked_batch: Images of a batch whose numbers are compared.
        batches: Batch sizes of inference.
        precisions: Precisions of inference, the one that matters most first.
        compiled_batches: Of the others than `main`, where programs are compiled.
        train_batches: Batch sizes of training.
        train_precisions: Policies of training, the one that matters most first.
        dense: `DenseSizes` of the networks of dense tasks, by name.
        steps: Training steps that are timed.
        product: Rows, inner size and columns of the matrix product that sets the rate.
        swin: Arguments of Hugging Face's Swin.
        convnext: Blocks and channels of torchvision's ConvNeXt; None for those of ConvNeXt-T.
    """

    networks: dict
    main: str
    timed: tuple
    image_size: int
    dense_size: tuple
    checked_batch: int
    batches: tuple
    precisions: tuple
    compiled_batches: tuple
    train_batches: tuple
    train_precisions: tuple
    dense: dict
    steps: int
    product: int
    swin: dict
    convnext: tuple | None


FULL = Sizes(
    networks={name: f"sepvit_{name}" for name in ("lite", "t", "s", "b")},
    main="t",
    timed=("t", "s", "b"),
    image_size=224,
    dense_size=(250, 333),
    checked_batch=4,
    batches=(64, 1, 256, 8),
    precisions=("bfloat16", "float32"),
    compiled_batches=(64, 1),
    train_batches=(128, 64),
    train_precisions=("mixed_bfloat16", "float32"),
    dense={
        "retinanet": DenseSizes((800, 1344), batches=(1, 8), train_batch=2),
        "semantic_fpn": DenseSizes((512, 512), batches=(1, 16), train_batch=16),
        "upernet": DenseSizes((512, 512), batches=(1, 16), train_batch=16),
    },
    steps=50,
    product=8192,
    swin={"embed_dim": 96, "depths": (2, 2, 6, 2), "num_heads": (3, 6, 12, 24), "window_size": 7},
    convnext=None,
)

SMALL = Sizes(
    networks={
        "t": SepViTConfig(
            hidden_dims=(8, 8, 16, 16),
            depths=(1, 1, 1, 1),
            num_heads=(1, 1, 2, 2),
            window_sizes=((4,), (4,), (2,), (2,)),
            drop_path_rate=0.1,
            image_size=64,
        )
    },
    main="t",
    timed=("t",),
    image_size=64,
    dense_size=(40, 72),
    checked_batch=2,
    batches=(2,),
    precisions=("float32",),
    compiled_batches=(2,),
    train_batches=(2,),
    train_precisions=("mixed_bfloat16",),
    dense={"retinanet": DenseSizes((64, 64), batches=(2,), train_batch=2)},
    steps=2,
    product=256,
    swin={"embed_dim": 8, "depths": (1, 1), "num_heads": (1, 2), "window_size": 4},
    convnext=((1, 8, 16), (1, 16, None)),
)
