"""Layer-wise removal by feature representations: blocks whose features tell little more than those before them go.

Feature diagnosis: a linear probe on the pooled features of every block says how well the answer can be told from them;
a block's gain is what its probe does better than that on its input. The paper probes with labels and trains the
shallower network towards the original's answers; here the probe is ridge regression in closed form, judged on samples
that weren't fitted, towards labels or, without any, towards the original's own answers (then in explained variance),
and the repair is least squares, front to back.

The paper's probe, and whether it looked at all layers anew after a removal, is unknown to us: this is a derivation from
its description. All gains are taken on the original, once.
"""

from __future__ import annotations

import numpy as np

from onnxprune.methods import Features, Float, block_method

FOLDS = 4
DAMPINGS = (1e-4, 1e-2, 1.0)  # relative to the features' mean variance


@block_method(
    "shallow",
    reconstruct="ls",
    summary="removes whole blocks whose features tell little more of the answer than those before them",
    paper="Chen & Zhao 2019, Shallowing Deep Networks",
)
def shallow(features: Features) -> Float:
    """How much better a probe does on what each block makes than on what it reads."""
    known: dict[int, float] = {}
    for found in (*features.before, *features.after):
        if id(found) not in known:
            known[id(found)] = probed(found, features.targets, labelled=features.labelled)
    return np.array([known[id(b)] - known[id(a)] for a, b in zip(features.before, features.after, strict=True)])


def probed(features: Float, targets: Float, *, labelled: bool) -> float:
    """What a ridge probe tells of targets [S, k] from features [S, c], cross-validated, with the best of its dampings.

    The share of samples whose largest target it finds if `labelled`, else the explained share of the variance.
    """
    fold = np.arange(len(features)) // 2 % FOLDS  # neighbours (a sample and its mirror image) stay together
    told = np.zeros((len(DAMPINGS), *targets.shape))
    blind = np.zeros(targets.shape)
    for number in range(FOLDS):
        held = fold == number
        told[:, held] = _predicted(features[~held], targets[~held], features[held])
        blind[held] = targets[~held].mean(0)
    if labelled:
        return float((told.argmax(2) == targets.argmax(1)).mean(1).max())
    return float(1.0 - np.square(told - targets).sum((1, 2)).min() / (np.square(blind - targets).sum() or 1.0))


def _predicted(x: Float, y: Float, held: Float) -> Float:
    """What ridge regression fitted on x, y says of held-out features, for each damping."""
    mean, centre = x.mean(0), y.mean(0)
    x = x - mean
    values, vectors = np.linalg.eigh(x.T @ x / len(x))
    cross = vectors.T @ (x.T @ (y - centre)) / len(x)
    scale = values.mean() or 1.0
    turned = (held - mean) @ vectors
    return np.stack([turned @ (cross / (np.maximum(values, 0.0) + d * scale)[:, None]) + centre for d in DAMPINGS])
