"""The whole job, as the command line and Python call it: a verb a file, named as the file."""

import os

# TensorFlow reads it when it first uses a GPU, of which it would otherwise take all memory: from the other processes
# there, and from the libraries that it calls itself.
os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
