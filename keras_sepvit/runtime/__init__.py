"""Predictions with exported models, without Keras and without a backend.

Needs NumPy, Pillow, and `ai-edge-litert` for .tflite files or `onnxruntime` for .onnx
files (the extra `export`). All but NumPy are imported when they are first used.
"""

from keras_sepvit.runtime.detector import FileDetector, ImageDetector
from keras_sepvit.runtime.files import SUFFIXES, open_model
from keras_sepvit.runtime.images import read_image
from keras_sepvit.runtime.instances import FileInstanceSegmenter, ImageInstanceSegmenter
from keras_sepvit.runtime.predictor import (
    ImageClassifier,
    Prediction,
    Predictor,
    best_classes,
)
from keras_sepvit.runtime.segmenter import FileSegmenter, ImageSegmenter

__all__ = [
    "SUFFIXES",
    "FileDetector",
    "FileInstanceSegmenter",
    "FileSegmenter",
    "ImageClassifier",
    "ImageDetector",
    "ImageInstanceSegmenter",
    "ImageSegmenter",
    "Prediction",
    "Predictor",
    "best_classes",
    "open_model",
    "read_image",
]
