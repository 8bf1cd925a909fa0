"""Importance of the searched keys, and selection bias of the best trial."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kerastl.report.search_report import Importance, SelectionBias, TrialRecord
from kerastl.search.hyperparameters import Space
from kerastl.search.search_folder import whole_trials

RESAMPLINGS = 1000
FEWEST_TRIALS = 10
TREES, FOLDS, SHUFFLES = 200, 5, 10
# Where a key has no meaning in a trial it stands apart from every value of it.
INACTIVE = -0.5


def selection_bias_of(
    losses: np.ndarray, baseline: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> SelectionBias:
    """Estimate how much of the best trial's gain over the unchanged recipe is owed to having picked the best of many.

    The whole choice is repeated on bootstrap samples of the validation examples: the best trial is picked on those
    that were drawn and measured on those that were not (BBC-CV: Tsamardinos, Greasidou and Borboudakis 2018,
    "Bootstrapping the out-of-sample predictions for efficient and accurate cross-validation"; on the bias itself
    Cawley and Talbot 2010, "On over-fitting in model selection"). Examples of one group are drawn together, as they
    are split together: of examples that are alike those left out would tell nothing new. It does not cover chance in
    the training examples or the seed, nor that temperature and best epoch of each trial were chosen on all examples.

    Args:
        losses: float [trials, examples], what each validation example adds to a trial's score, less is better.
        baseline: float [examples], the same for the recipe as it was given; it is one of the candidates.
        groups: [examples], what each one belongs to; each stands for itself without it.
        seed: of the resampling.
    """
    table = np.concatenate([baseline[None], losses]).astype(np.float64)
    count = table.shape[1]
    members = np.arange(count) if groups is None else np.unique(groups, return_inverse=True)[1]
    drawable = int(members.max()) + 1
    generator = np.random.default_rng(seed)
    gains = []
    for _ in range(RESAMPLINGS):
        drawn = np.bincount(generator.integers(0, drawable, drawable), minlength=drawable)[members]
        left_out = drawn == 0
        if left_out.any():
            best = int((table @ drawn).argmin())
            gains.append(float((table[0] - table[best])[left_out].mean()))
    means = table.mean(axis=1)
    apparent = float(means[0] - means.min())
    low, high = np.percentile(gains, [2.5, 97.5])
    expected = float(np.mean(gains))
    return SelectionBias(apparent, expected, float(low), float(high), len(losses), count)


def importance_of(space: Space, records: Sequence[TrialRecord], seed: int = 0) -> Importance | None:
    """Importance of each key: by how much a forest predicts unseen trials worse once the key is shuffled.

    Random forests and permutation importance are Breiman's (2001, "Random forests"); the importance is taken on
    trials that the forest has not seen, so that a key without effect comes out near zero, below it as often as
    above.

    Args:
        space: what was searched.
        records: finished trials with all their epochs.
        seed: of forests and shuffles.

    Returns:
        None where there are too few trials to say anything.
    """
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.model_selection import KFold

    scored = whole_trials(records)
    scores = np.array([record.score for record in scored], np.float64)
    if len(scored) < FEWEST_TRIALS or not scores.std():
        return None
    # Each key's place in its range, 0..1.
    rows = np.array(
        [[hp.encoded(r.values[hp.key]) if hp.key in r.values else INACTIVE for hp in space] for r in scored]
    )
    # Ranks: one trial that went badly wrong would otherwise be all that there is to explain.
    target = scores.argsort().argsort() / (len(scores) - 1)
    generator = np.random.default_rng(seed)
    errors, shuffled = 0.0, np.zeros(rows.shape[1])
    for known, unseen in KFold(FOLDS, shuffle=True, random_state=seed).split(rows):
        forest = RandomForestRegressor(TREES, random_state=seed, min_samples_leaf=2).fit(
            rows[known], target[known]
        )
        errors += float(((forest.predict(rows[unseen]) - target[unseen]) ** 2).sum())
        for column in range(rows.shape[1]):
            for _ in range(SHUFFLES):
                changed = rows[unseen].copy()
                # Values come from all trials: the few unseen ones alone may all have the same.
                changed[:, column] = generator.choice(rows[:, column], len(unseen))
                shuffled[column] += float(((forest.predict(changed) - target[unseen]) ** 2).sum()) / SHUFFLES
    total = float(((target - target.mean()) ** 2).sum())
    values = {hp.key: float(value) for hp, value in zip(space, (shuffled - errors) / total, strict=True)}
    return Importance(values, 1 - errors / total, len(scored))
