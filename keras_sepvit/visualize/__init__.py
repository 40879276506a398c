"""Pictures of boxes, masks, class maps, attention among windows, by Pillow. Without Keras."""

from keras_sepvit.palette import palette
from keras_sepvit.visualize.attention import draw_window_attention
from keras_sepvit.visualize.boxes import detections_beside_truth, draw_boxes
from keras_sepvit.visualize.instances import draw_instances
from keras_sepvit.visualize.maps import draw_class_map, save_class_map
from keras_sepvit.visualize.pages import in_rows, with_legend

__all__ = [
    "detections_beside_truth",
    "draw_boxes",
    "draw_class_map",
    "draw_instances",
    "draw_window_attention",
    "in_rows",
    "palette",
    "save_class_map",
    "with_legend",
]
