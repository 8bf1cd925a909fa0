"""What is particular to images: encoded bytes to pixels, and random changes to pixels.

Nothing is imported here, so that naming a module of this room costs no TensorFlow import.
"""
