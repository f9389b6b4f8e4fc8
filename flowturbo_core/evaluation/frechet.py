"""Distances between two sets of images, measured on the features of a network.

The name is Frechet distance throughout. It is FID only on the features of Inception.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean (D,) and covariance (D, D) of features, float64."""

    mean: Tensor
    covariance: Tensor


def feature_statistics(features: Tensor) -> FeatureStatistics:
    """Return the statistics of features (N, D). Raises ValueError for fewer than 2 of them."""
    check_features("features", features)
    features = features.double()
    return FeatureStatistics(
        features.mean(0), torch.cov(features.T).reshape(2 * [len(features[0])])
    )


def frechet_distance(one: FeatureStatistics, other: FeatureStatistics) -> float:
    """Return |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) (Heusel et al., 1706.08500, eq. 6).

    The trace of the root equals that of (C1^(1/2) C2 C1^(1/2))^(1/2). This matrix is symmetric:
    its eigenvalues are real, and a singular covariance does no harm.
    """
    values, vectors = torch.linalg.eigh(one.covariance)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ other.covariance @ root)
    shift = (one.mean - other.mean).square().sum()
    spread = one.covariance.trace() + other.covariance.trace()
    return float(shift + spread - 2 * product.clamp(min=0).sqrt().sum())


def precision_recall(generated: Tensor, reference: Tensor, neighbours: int = 3) -> tuple:
    """Return the share of each set that lies within the other's manifold, both in [0, 1].

    The manifold of a set is a union of balls, one around each feature. The radius of a ball is the
    distance to the k-th nearest neighbour (Kynkaanniemi et al., 1904.06991, eq. 1 and 2). Features
    are (N, D) and (M, D); N and M must exceed k.
    """
    for name, features in (("generated", generated), ("reference", reference)):
        check_features(name, features, neighbours + 1)
    return (
        _share_inside(generated, reference, neighbours),
        _share_inside(reference, generated, neighbours),
    )


def _share_inside(features: Tensor, others: Tensor, neighbours: int) -> float:
    """Return the share of `features` within the manifold of `others`."""
    # The nearest neighbour of a feature is the feature itself, so k + 1.
    nearest = (rows.kthvalue(neighbours + 1, dim=1).values for rows in _distances(others, others))
    radii = torch.cat(list(nearest))
    inside = [(rows <= radii).any(1) for rows in _distances(features, others)]
    return float(torch.cat(inside).double().mean())


def _distances(features: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Yield the distances of 1000 features at a time: 50,000 at once would fill 20 GB."""
    others = others.double()
    for rows in features.split(1000):
        yield torch.cdist(rows.double(), others)


@dataclass(frozen=True)
class Estimate:
    """The value of a measure on samples, and its values on R resamples (R,), float64.

    Two estimates on equally many samples use the same resamples. Their difference is then a
    paired one.
    """

    value: float
    resampled: Tensor

    @property
    def interval(self) -> tuple[float, float]:
        """The standard 95% interval: the value, plus or minus 1.96 standard deviations.

        Percentiles of the resamples would be wrong. A resample repeats samples, and so has a
        larger Frechet distance: all resamples may lie above the value.
        """
        spread = 1.96 * float(self.resampled.std())
        return self.value - spread, self.value + spread

    def __sub__(self, other: "Estimate") -> "Estimate":
        return Estimate(self.value - other.value, self.resampled - other.resampled)

    def describe(self, name: str) -> dict[str, Any]:
        """Return the columns of a row that hold it: the value, and its interval."""
        return {name: self.value, f"{name}_interval": self.interval}


def bootstrap(
    measure: Callable[..., float], *counts: int, resamples: int = 200, seed: int = 0
) -> Estimate:
    """Estimate `measure` by the bootstrap (Efron and Tibshirani, chapter 12).

    `measure` takes indices (count,) for each of its sets of samples. The indices of a resample are
    drawn with replacement. Raises ValueError for fewer than 2 samples.
    """
    if min(counts) < 2:
        raise ValueError(f"an interval needs at least 2 samples, not {min(counts)}")
    generator = torch.Generator().manual_seed(seed)
    values = [
        measure(*(torch.randint(count, (count,), generator=generator) for count in counts))
        for _ in range(resamples)
    ]
    value = measure(*(torch.arange(count) for count in counts))
    return Estimate(value, torch.tensor(values, dtype=torch.float64))


def share(right: Tensor) -> tuple[float, tuple[float, float]]:
    """Return the share of (N,) that is true, and its 95% interval (Wilson, 1927).

    Near 0 and 1 the standard interval would leave [0, 1], or have no width.
    """
    n, z2 = len(right), 1.96**2
    p = float(right.double().mean())
    middle, half = p + z2 / (2 * n), 1.96 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return p, ((middle - half) / (1 + z2 / n), (middle + half) / (1 + z2 / n))


def check_features(name: str, features: Tensor, least: int = 2) -> None:
    """Raise ValueError unless `features` is (N, D) of at least `least` finite rows."""
    if features.ndim != 2 or len(features) < least:
        raise ValueError(
            f"{name} must be at least {least} rows, not of shape {tuple(features.shape)}"
        )
    if not torch.isfinite(features).all():
        raise ValueError(f"{name} hold values that are not finite")
