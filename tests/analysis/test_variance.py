"""Moderated variances: Smyth's formulas computed another way, planted priors, and limits that have a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from builders.analysis_tables import bridging_tables
from hypothesis import given
from hypothesis import strategies as st
from scipy import integrate, stats

from midstudy.analysis.effects import effects
from midstudy.analysis.variance import inverse_trigamma, moderated_intervals, variance_prior

VARIANCES = np.array([0.0021, 0.0005, 0.0160, 0.0008, 0.0047, 0.0002])
NUMS = np.array([3, 3, 3, 3, 5, 8])


def log_moments(df: float) -> tuple[float, float]:
    """Mean and variance of log(χ²/df) with df degrees of freedom, by numerical integration of the density."""

    def moment(power: int, centre: float) -> float:
        # in u = log χ², where the density has no pole
        value, _ = integrate.quad(
            lambda u: (u - math.log(df) - centre) ** power * stats.chi2.pdf(math.exp(u), df) * math.exp(u), -60, 8, limit=400
        )
        return float(value)

    mean = moment(1, 0.0)
    return mean, moment(2, mean)


def test_the_prior_reproduces_the_mean_and_the_spread_of_the_log_variances() -> None:
    """log s² is log s0² plus log χ²_d/d minus log χ²_d0/d0: the published moment equations, here without digamma."""
    dfs = NUMS - 1.0
    prior = variance_prior(VARIANCES, dfs)
    own = [log_moments(df) for df in dfs]
    centred = np.log(VARIANCES) - [mean for mean, _ in own]
    prior_mean, prior_spread = log_moments(prior.df)
    assert 1 < prior.df < 10
    assert prior_spread == pytest.approx(centred.var(ddof=1) - np.mean([spread for _, spread in own]), rel=1e-6)
    assert math.log(prior.variance) - prior_mean == pytest.approx(centred.mean(), rel=1e-6)


def test_the_interval_is_t_with_the_posterior_variance_and_added_degrees_of_freedom() -> None:
    means = np.array([0.5, 0.1, -0.2, 0.0, 0.3, 0.05])
    prior = variance_prior(VARIANCES, NUMS - 1.0)
    for index, (low, high) in enumerate(moderated_intervals(means, VARIANCES, NUMS)):
        df = NUMS[index] - 1
        posterior = (prior.df * prior.variance + df * VARIANCES[index]) / (prior.df + df)
        total = min(prior.df + df, (NUMS - 1).sum())
        expected = stats.t.interval(0.95, total, loc=means[index], scale=math.sqrt(posterior / NUMS[index]))
        assert (low, high) == (pytest.approx(expected[0]), pytest.approx(expected[1]))


@pytest.mark.parametrize("df", [2.0, 4.0])
@pytest.mark.parametrize("prior_df", [3.0, 8.0, 30.0])
def test_a_planted_prior_is_found(df: float, prior_df: float) -> None:
    rng = np.random.default_rng(5)
    true = 0.01 * prior_df / rng.chisquare(prior_df, 200_000)
    found = variance_prior(true * rng.chisquare(df, true.size) / df, np.full(true.size, df))
    assert found.df == pytest.approx(prior_df, rel=0.15)
    assert found.variance == pytest.approx(0.01, rel=0.02)


def test_variances_that_scatter_by_chance_alone_are_pooled() -> None:
    variances, nums = np.array([0.010, 0.012, 0.011]), np.array([3, 3, 9])
    prior = variance_prior(variances, nums - 1.0)
    assert math.isinf(prior.df)
    pooled = (2 * 0.010 + 2 * 0.012 + 8 * 0.011) / 12
    assert prior.variance == pytest.approx(pooled)
    low, high = moderated_intervals(np.zeros(3), variances, nums)[0]
    assert (low, high) == tuple(pytest.approx(end) for end in stats.t.interval(0.95, 12, scale=math.sqrt(pooled / 3)))


def test_a_cell_alone_keeps_its_own_interval() -> None:
    found = moderated_intervals(np.array([0.5]), np.array([0.0016]), np.array([3]))[0]
    assert tuple(found) == tuple(
        pytest.approx(end) for end in stats.t.interval(0.95, 2, loc=0.5, scale=math.sqrt(0.0016 / 3))
    )


def test_a_single_seed_and_no_variation_get_no_interval_and_leave_the_others_as_they_are() -> None:
    means, variances, nums = np.array([0.5, 0.4, 0.3, 0.2]), np.array([0.01, math.nan, 0.0, 0.03]), np.array([3, 1, 3, 3])
    found = moderated_intervals(means, variances, nums)
    assert np.isnan(found[[1, 2]]).all()
    np.testing.assert_allclose(found[[0, 3]], moderated_intervals(means[[0, 3]], variances[[0, 3]], nums[[0, 3]]))
    assert np.isnan(moderated_intervals(means[:1], variances[1:2], nums[1:2])).all()
    assert moderated_intervals(means[:0], variances[:0], nums[:0]).shape == (0, 2)


@given(x=st.floats(1e-3, 1e5))
def test_the_inverse_of_trigamma(x: float) -> None:
    from scipy.special import polygamma

    assert inverse_trigamma(float(polygamma(1, x))) == pytest.approx(x, rel=1e-6)


def test_effects_have_both_intervals() -> None:
    tables = bridging_tables()
    table = effects(tables, tables.manifest.comparison("main"), "sft_loss").table
    variances = 3 * table["standard_error"].to_numpy() ** 2
    expected = moderated_intervals(table["difference"].to_numpy(), variances, table["num_seeds"].to_numpy())
    np.testing.assert_allclose(table[["moderated_ci_low", "moderated_ci_high"]], expected)
    plain = (table["ci_high"] - table["ci_low"]).to_numpy()
    moderated = (table["moderated_ci_high"] - table["moderated_ci_low"]).to_numpy()
    assert (moderated < plain).mean() > 0.5
    one = bridging_tables(trunk_seeds=(0,))
    assert effects(one, one.manifest.comparison("main"), "sft_loss").table["moderated_ci_low"].isna().all()
