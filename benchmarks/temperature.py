"""What does a temperature that is fitted to a few images cost other images, with and without its prior?

Logits are drawn so that their softmax is the truth (four classes, 83 % right): the best temperature is 1. Printed is
the mean log-loss at the fitted temperature less that at the best one, in nats, over draws of the validation images.

    python benchmarks/temperature.py [--draws 1000]
"""

from __future__ import annotations

import argparse
import math
from unittest import mock

import numpy as np

from kerastl.evaluation.calibration import fit_temperature, log_loss_at


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=1000)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(200_000, 4)) * 4.2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = (probabilities.cumsum(axis=1) > generator.random((len(logits), 1))).argmax(axis=1)
    ladder = np.linspace(math.log(0.05), math.log(20), 400)
    losses = np.array([log_loss_at(logits[:20_000], labels[:20_000], math.exp(log)) for log in ladder])
    print(f"accuracy {(logits.argmax(axis=1) == labels).mean():.3f}, {arguments.draws} draws")
    print(f"{'images':>6}  {'without':>8}  {'with the prior':>14}")
    for count in (5, 10, 14, 20, 40, 100, 400):
        excess: dict[str, list[float]] = {"without": [], "with": []}
        for _ in range(arguments.draws):
            some = generator.integers(0, len(labels), count)
            fits = {"with": fit_temperature(logits[some], labels[some])}
            with mock.patch("kerastl.evaluation.calibration._effective_count", lambda *arguments: math.inf):
                fits["without"] = fit_temperature(logits[some], labels[some])
            for side, fitted in fits.items():
                excess[side].append(float(np.interp(math.log(fitted), ladder, losses) - losses.min()))
        print(f"{count:>6}  {np.mean(excess['without']):>8.4f}  {np.mean(excess['with']):>14.4f}")


if __name__ == "__main__":
    main()
