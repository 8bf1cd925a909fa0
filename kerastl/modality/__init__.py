"""What an example is; today images alone.

Nothing is imported here, so that naming a module of this room costs no TensorFlow import.
"""
