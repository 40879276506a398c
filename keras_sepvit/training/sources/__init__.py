"""Where examples come from. `digits` and `scenes` need neither TensorFlow nor Keras."""
