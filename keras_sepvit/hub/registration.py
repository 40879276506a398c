"""The names of this package's classes in Keras's registry."""

import keras

# Not the package of our own classes, one of which has the same name.
register = keras.saving.register_keras_serializable(package="keras_sepvit.hub")
