"""What goes wrong in an export, beyond bad arguments."""


class ExportError(ValueError):
    """A model could not be converted, or the file disagrees with the model."""
