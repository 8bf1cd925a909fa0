"""Asks exported models in a process that cannot import kerastl: `python without_kerastl.py MODELS.json ANSWERS.npz`.

MODELS.json holds an object of name to [folder of a version, list of image files]. What the model `name` answers to the raw
bytes of the files lies under `name/OUTPUT` in ANSWERS.npz.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

sys.modules["kerastl"] = None  # type: ignore[assignment]  # an import of it fails, wherever it is installed
try:
    import kerastl  # noqa: F401
except ImportError:
    pass
else:
    sys.exit("kerastl can be imported here")

answers = {}
for name, (folder, files) in json.loads(Path(sys.argv[1]).read_text()).items():
    served = tf.saved_model.load(folder).signatures["serving_default"]
    outputs = served(image_bytes=tf.constant([Path(file).read_bytes() for file in files]))
    answers |= {f"{name}/{key}": value.numpy() for key, value in outputs.items()}
assert not [module for module in sys.modules if module.startswith("kerastl.")]
np.savez(
    sys.argv[2],
    **{key: value.astype(str) if value.dtype == object else value for key, value in answers.items()},
)
