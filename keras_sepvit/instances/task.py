"""Instance segmentation as the engine's task."""

from keras_sepvit.detection.mask_rcnn import MaskRCNN
from keras_sepvit.detection.rcnn_losses import LOSS_NAMES, mask_rcnn_losses
from keras_sepvit.detection.task import Detection, ImagesAndBoxes
from keras_sepvit.instances.report import InstanceReport
from keras_sepvit.instances.scores import InstanceScores
from keras_sepvit.instances.sources import open_splits


class InstanceSegmentation(Detection):
    """Pictures with boxes and masks: losses of a Mask R-CNN, COCO's average precision of both.

    Examples are those of `Detection`, in training with `"masks"` uint8 (most, 112, 112): what
    an object covers of its box, 0..255; zeros where that is not known.

    Args:
        recipe: An `InstanceRecipe`.
    """

    _open_splits = staticmethod(open_splits)
    _network_class = MaskRCNN
    _network_settings = (*Detection._network_settings, "units", "proposals", "samples")

    loss_names = LOSS_NAMES
    best = "mask_ap"
    curves = ("ap", "ap50", "mask_ap", "mask_ap50")

    def transform(self, example, seed):
        transform = self._transforms[example.get("group", 0)]
        image, boxes, labels, size, masks = transform(
            example["image"], example["boxes"], example["labels"], seed, example["masks"]
        )
        return {"image": image, "boxes": boxes, "labels": labels, "size": size, "masks": masks}

    def augmentation(self, part):
        return ImagesWithTargets()

    def losses(self, targets, outputs):
        return mask_rcnn_losses(targets, outputs)

    def answers(self, outputs):
        return outputs

    def scores(self):
        return InstanceScores(self.source.classes, self.validation_source.masks_of)

    def report(self):
        source = self.source
        return InstanceReport(
            source.classes,
            source.class_names,
            source.category_ids,
            masks_of=self.validation_source.masks_of,
        )

    def draw_batch(self, path, images, targets):
        super().draw_batch(path, images["images"], targets)


class ImagesWithTargets(ImagesAndBoxes):
    """A batch's images with its boxes and masks beside them, as the network is trained on."""

    def call(self, batch):
        images, targets = super().call(batch)
        targets = {**targets, "masks": batch["masks"]}
        return {"images": images, **targets}, targets
