"""From a trained model to a version that TensorFlow Serving can load, and back.

`signatures` writes a SavedModel, `parity` checks it in a fresh process, `publish` makes it visible and
`reader` answers with it. Nothing is imported here, so that naming a module of this room costs no
TensorFlow import.
"""
