"""The report of an export: what was written, and how it compares with the model."""

import dataclasses
import json

from keras_sepvit.export.check import share_in_words
from keras_sepvit.validation import counted


@dataclasses.dataclass(frozen=True)
class ExportReport:
    """What an export wrote, and how it was checked.

    Attributes:
        format: Name of the format, such as `"litert"`.
        path: The file or folder.
        precision: `"float32"`, `"tf32"`, `"float16"`, `"dynamic_int8"`, `"int8"`,
            `"int8_float16"` or `"full_int8"`.
        size_bytes: Size of the file, or of all files in the folder.
        operators: How often the graph has each operator, by name.
        not_delegated: Of these, how many the runtime's accelerator leaves to
            slower kernels, by name; None where the runtime does not tell.
        max_error: Largest absolute difference from what the Keras model gives; None if
            the file was not compared.
        relative_error: Euclidean norm of these differences over that of what Keras gives.
        compared: What the errors are of: `"features"`, `"logits"` (also those that the
            probabilities of a softmax stand for), `"probabilities"` (of a sigmoid, and
            of full-integer files; see `check.compare`), `"class maps"` (see
            `check.measure_class_maps`) or `"detections"`, in pixels (see
            `check_detections.measure_detections`).
        top1_agreement: Share of the images, of segmenters of the pixels, for which both give
            the same class; of detections, of those that the other has, too; None for other
            models, and where there are no detections.
        images: How many images were compared.
        latency_ms: Median milliseconds of one run, by number of threads.
        data: Name of the data that the model and its file were measured on; None for none.
        data_images: How many images of it were.
        scores: Their results there, in percent by name, under `"keras"` and `"file"`;
            None where there is nothing to find.
        notes: Anything else to know, a sentence each.
    """

    format: str
    path: str
    precision: str
    size_bytes: int
    operators: dict
    not_delegated: dict | None = None
    max_error: float | None = None
    relative_error: float | None = None
    compared: str | None = None
    top1_agreement: float | None = None
    images: int = 0
    latency_ms: dict = dataclasses.field(default_factory=dict)
    data: str | None = None
    data_images: int = 0
    scores: dict | None = None
    notes: tuple = ()

    def to_json(self):
        """The report as a JSON object."""
        return json.dumps(dataclasses.asdict(self), indent=2, ensure_ascii=False)

    def __str__(self):
        rows = [
            ("file", f"{self.path} ({self.size_bytes / 1e6:.2f} MB)"),
            ("format", f"{self.format}, {self.precision}"),
            ("operators", _counts(self.operators)),
        ]
        if self.not_delegated is not None:
            rows.append(("not delegated", _counts(self.not_delegated) or "none"))
        rows.append(("against Keras", self._comparison()))
        if self.latency_ms:
            times = ", ".join(
                f"{milliseconds:.1f} ms with {counted(int(threads), 'thread')}"
                for threads, milliseconds in self.latency_ms.items()
            )
            rows.append(("latency", times))
        if self.scores is not None:
            keras, file = (_shares(self.scores[whose]) for whose in ("keras", "file"))
            images = counted(self.data_images, "image")
            rows.append((f"on {self.data}", f"{file} % (Keras: {keras}), on {images}"))
        rows += [("note", note) for note in self.notes]
        return "\n".join(f"{name:<13} {text}" for name, text in rows)

    def _comparison(self):
        if self.max_error is None:
            return "not compared"
        parts = [f"{self.compared}: max error {self.max_error:.2g}"]
        if self.compared == "detections":
            parts[0] += " pixels (0.001 of a score or of a mask's value counts as 0.05)"
        parts.append(f"relative error {self.relative_error:.2g}")
        if self.top1_agreement is not None:
            parts.append(f"{share_in_words(self.compared)} {self.top1_agreement:.2%}")
        return f"{', '.join(parts)}, on {counted(self.images, 'image')}"


def _shares(scores):
    return ", ".join(
        f"{name} {'none' if share is None else f'{share:.2f}'}" for name, share in scores.items()
    )


def _counts(operators):
    total = sum(operators.values())
    if not total:
        return ""
    by_count = sorted(operators.items(), key=lambda item: (-item[1], item[0]))
    return f"{total} (" + ", ".join(f"{name} {count}" for name, count in by_count) + ")"
