"""Distances between sets of features, against exact answers."""

import math

import pytest
import torch

from flowturbo_core.evaluation.frechet import (
    FeatureStatistics,
    bootstrap,
    feature_statistics,
    frechet_distance,
    precision_recall,
    share,
)


def normal(count, mean=0.0, scale=1.0, seed=0, dimensions=4):
    generator = torch.Generator().manual_seed(seed)
    return mean + scale * torch.randn(count, dimensions, generator=generator, dtype=torch.float64)


def given(mean, variances):
    return FeatureStatistics(
        torch.tensor(mean, dtype=torch.float64),
        torch.diag(torch.tensor(variances, dtype=torch.float64)),
    )


def test_of_normals_whose_covariances_commute_it_is_in_closed_form():
    one, other = given([0.0, 1.0, 2.0], [1.0, 4.0, 0.0]), given([1.0, 1.0, 0.0], [9.0, 0.0, 0.25])
    expected = (
        1 + 4 + sum((math.sqrt(a) - math.sqrt(b)) ** 2 for a, b in ((1, 9), (4, 0), (0, 0.25)))
    )
    assert frechet_distance(one, other) == pytest.approx(expected, abs=1e-12)


def test_it_does_not_see_rotations_and_is_symmetric():
    one, other = feature_statistics(normal(500)), feature_statistics(normal(400, 0.5, 2.0, 1))
    rotation, _ = torch.linalg.qr(normal(4, seed=2))
    turned = (
        FeatureStatistics(rotation @ s.mean, rotation @ s.covariance @ rotation.T)
        for s in (one, other)
    )
    distance = frechet_distance(one, other)
    assert frechet_distance(*turned) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(other, one) == pytest.approx(distance, rel=1e-9)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)


def test_statistics_are_those_of_numpys_convention():
    features = normal(50)
    found = feature_statistics(features)
    centred = features - features.mean(0)
    torch.testing.assert_close(found.covariance, centred.T @ centred / 49)


def test_precision_and_recall_tell_too_narrow_from_too_wide():
    reference = normal(600)
    precise, recalled = precision_recall(normal(600, scale=0.3, seed=1), reference)
    assert precise > 0.9 and recalled < 0.6
    precise, recalled = precision_recall(normal(600, scale=4.0, seed=1), reference)
    assert precise < 0.3 and recalled > 0.95
    assert precision_recall(normal(600, mean=100.0, seed=1), reference) == (0, 0)
    assert precision_recall(reference, reference) == (1, 1)


def test_a_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    covered = 0
    for trial in range(100):
        values = normal(80, seed=trial, dimensions=1)[:, 0]
        low, high = bootstrap(lambda i, v=values: float(v[i].mean()), 80, seed=trial).interval
        covered += low <= 0 <= high
    assert 85 <= covered <= 100


def test_the_interval_of_a_frechet_distance_lies_around_it():
    # Repeated samples make it larger, so that all of the resamples' may be: percentiles would not.
    target = feature_statistics(normal(2000, seed=5, dimensions=32))
    features = normal(200, seed=6, dimensions=32)

    def distance(i):
        return frechet_distance(feature_statistics(features[i]), target)

    low, high = bootstrap(distance, 200, resamples=50).interval
    assert low < distance(torch.arange(200)) < high


def test_a_difference_is_measured_in_pairs():
    # Each of the second is 0.5 above its partner: the means' intervals are wide, that of their
    # difference is a point.
    values = normal(80, dimensions=1)[:, 0]
    one, other = (bootstrap(lambda i, v=v: float(v[i].mean()), 80) for v in (values, values + 0.5))
    low, high = (other - one).interval
    assert low == pytest.approx(0.5) and high == pytest.approx(0.5)
    assert one.interval[1] - one.interval[0] > 0.3


def test_both_sets_are_resampled():
    # The reference's own spread is part of the interval: a mean of 20 is known less well than one
    # of 2,000 by ten times.
    few, many = normal(20, seed=1, dimensions=1)[:, 0], normal(2000, seed=2, dimensions=1)[:, 0]
    both = bootstrap(lambda i, j: float(few[i].mean() - many[j].mean()), 20, 2000)
    one = bootstrap(lambda j: float(many[j].mean()), 2000)
    assert (both.interval[1] - both.interval[0]) > 5 * (one.interval[1] - one.interval[0])


def test_a_share_keeps_within_its_limits():
    everything, nothing, half = (
        torch.tensor(x) for x in ([True] * 50, [False] * 50, [True, False] * 25)
    )
    value, (low, high) = share(everything)
    assert value == 1 and 0.92 < low < 0.94 and high == pytest.approx(1)
    assert share(nothing) == (0, pytest.approx((0, 1 - low)))
    value, (low, high) = share(half)
    assert value == 0.5 and low == pytest.approx(0.366, abs=1e-3) and low + high == pytest.approx(1)


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        (torch.zeros(1, 3), "at least 2 rows, not of shape"),
        (torch.zeros(5), "at least 2 rows, not of shape"),
        (torch.full((3, 2), math.nan), "not finite"),
    ],
)
def test_what_has_no_statistics(features, sentence):
    with pytest.raises(ValueError, match=sentence):
        feature_statistics(features)
    with pytest.raises(ValueError):
        precision_recall(features, normal(10, dimensions=2))


def test_an_interval_of_one_sample_is_refused():
    with pytest.raises(ValueError, match="at least 2 samples, not 1"):
        bootstrap(lambda i: 0.0, 1)
