"""Keras Tuner's Bayesian oracle with a choice that costs less than a trial: candidates are scored all at once.

Keras Tuner 1.4.8 fits its Gaussian process from 21 starting points and climbs to the best proposal from 50 more, one
point at a time: 2 to 6 CPU seconds for each trial from the seventh on, with five hyperparameters. All but few of a search are
lists, and the process has a single length scale, so that both can be looked up among many instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras_tuner.oracles import BayesianOptimizationOracle
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import Matern

from kerastl.search.hyperparameters import Space

# Of the process, in shares of a range.
LENGTHS = np.geomspace(0.05, 20.0, 25)
CANDIDATES = 4000
# Neighbours of the best trials: only there a continuous range needs to be looked at closely.
BEST, NEIGHBOURS, NEAR = 4, 250, 0.1


class BayesianOracle(BayesianOptimizationOracle):
    """Keras Tuner's model of the score and its acquisition function, with a cheap search for the best candidate.

    Attributes:
        space: what is searched; set by `make_oracle`.
    """

    space: Space

    def _make_gpr(self) -> GaussianProcessRegressor:
        return GaussianProcessRegressor(
            kernel=Matern(nu=2.5),
            alpha=self.alpha,
            optimizer=_likeliest,
            normalize_y=True,
            random_state=self.seed,
        )

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """The setting with the lowest confidence bound of the score among many, of those that were not tried."""
        done = sum(trial.status == "COMPLETED" for trial in self.trials.values())
        if done < self.num_initial_points:
            found: dict[str, Any] = self._random_populate_space()
            return found
        places, scores = self._vectorize_trials()
        self.gpr.fit(places, scores)
        candidates = self._candidates(places[scores.argsort()[:BEST]])
        mean, deviation = self.gpr.predict(candidates, return_std=True)
        for place in (mean - self.beta * deviation).argsort():
            values = self._vector_to_values(candidates[place])
            if not self._duplicate(values):
                return {"status": "RUNNING", "values": values}
        return self._random_populate_space()

    def _candidates(self, best: np.ndarray) -> np.ndarray:
        """Points in the space, float64 [n, hyperparameters] in 0..1: some from everywhere, some near the best trials."""
        generator = np.random.default_rng([self.seed, len(self.trials)])
        columns = best.shape[1]
        near = np.repeat(best, NEIGHBOURS, axis=0)
        moved = generator.random(near.shape) < 1.5 / columns  # one or two keys at a time
        near = np.clip(near + moved * generator.normal(0.0, NEAR, near.shape), 0.0, 1.0)
        points = np.concatenate([generator.random((CANDIDATES, columns)), near])
        for column, (hp, parameter) in enumerate(zip(self.space, self._nonfixed_space(), strict=True)):
            count = len(hp.values)
            if count:
                middles = [parameter.value_to_prob(place) for place in range(count)]
                points[:, column] = np.take(
                    middles, np.minimum((points[:, column] * count).astype(int), count - 1)
                )
        return points


def _likeliest(
    objective: Callable[..., float], start: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, float]:
    """The likeliest length scale of a process that has no other parameter, for scikit-learn's `optimizer`."""
    tried = [(objective(np.log([length]), eval_gradient=False), length) for length in LENGTHS]
    value, length = min(tried)
    return np.log([length]), value
