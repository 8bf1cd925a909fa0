"""From a trained model to a version that TensorFlow Serving can load, and back.

`saved_model` writes a SavedModel, `check` compares its answers in a fresh process, `publish` makes it visible and
`reader` answers with it. Nothing is imported here, so that naming a module of this room costs no
TensorFlow import.
"""
