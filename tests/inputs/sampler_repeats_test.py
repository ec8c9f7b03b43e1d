"""Repeat factors and shares of draws against the original's numbers (tests/golden/sampler.npz)."""

import pathlib

import numpy as np
import pytest

from rkd_jax.inputs.sampler import FORMS, Repeats, Sampler, repeat_factors
from rkd_jax.records import index as index_lib

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "sampler.npz")
CLASSES = [np.flatnonzero(bits >> np.arange(16) & 1) for bits in GOLDEN["sp_cats"]]


def _index(source):
  rows = [c for c, own in zip(CLASSES, GOLDEN["sp_source"]) if own == source]
  return index_lib.make((1, 1, classes, 0, 0) for classes in rows)


def _factors(source):
  return repeat_factors(_index(source), float(GOLDEN["sp_thresh"]))


@pytest.mark.parametrize(("source", "name"), [(0, "sp_rfs_box"), (1, "sp_rfs_tag")])
def test_factors_equal_the_originals(source, name):
  np.testing.assert_allclose(_factors(source), GOLDEN[name], rtol=1e-6)


@pytest.mark.parametrize(
  ("which", "name"), [((), "sp_w_norfs"), ((0,), "sp_w_rfs0"), ((0, 1), "sp_w_rfs01")]
)
def test_shares_within_a_data_set_equal_the_originals(which, name):
  """Its mixture of two data sets draws within each as we do within a kind of batch."""
  for source in (0, 1):
    expected = GOLDEN[name][GOLDEN["sp_source"] == source]
    factors = _factors(source) if source in which else np.ones(len(expected))
    shares = np.diff(Repeats(factors, "fractional").cumulative, prepend=0)
    np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-6)


def test_factors_by_hand():
  # Class 0 in 4 of 5 images, class 7 in 1 of 5; threshold 0.8: sqrt(0.8 / 0.2) = 2.
  index = index_lib.make((1, 1, own, 0, 0) for own in ([0], [0], [0, 7], [], [0]))
  np.testing.assert_allclose(repeat_factors(index, 0.8), [1, 1, 2, 1, 1])
  np.testing.assert_allclose(repeat_factors(index, 0.001), np.ones(5))


FACTORS = np.array([1.0, 1.0, 2.5, 1.0, 3.0, 1.25, 1.0])


def _sampler(form, batch_size=4, seed=0):
  own = Repeats(FACTORS, form)
  return Sampler(seed, ("box",), {"box": (len(FACTORS), batch_size)}, {"box": own})


def _draws(sampler, steps):
  return np.concatenate([sampler.indices(step) for step in range(steps)])


def test_an_epoch_rounds_each_factor_at_random():
  counts = []
  for seed in range(400):
    records = Repeats(FACTORS, "stochastic").rounded(np.random.default_rng(seed))
    counts.append(np.bincount(records, minlength=len(FACTORS)))
  counts = np.array(counts)
  assert (counts.min(0) == np.floor(FACTORS)).all() and (counts.max(0) == np.ceil(FACTORS)).all()
  np.testing.assert_allclose(counts.mean(0), FACTORS, atol=0.1)


def test_epochs_follow_one_another_without_a_gap():
  """Whole factors: 1 + 3 + 2 draws an epoch, each in another order."""
  own = Repeats(np.array([1.0, 3.0, 2.0]), "stochastic")
  sampler = Sampler(0, ("box",), {"box": (3, 4)}, {"box": own})
  epochs = _draws(sampler, 30).reshape(-1, 6)
  assert {tuple(sorted(epoch)) for epoch in epochs.tolist()} == {(0, 1, 1, 1, 2, 2)}
  assert len({tuple(epoch) for epoch in epochs.tolist()}) > 5


@pytest.mark.parametrize("form", FORMS)
def test_records_come_in_proportion_to_their_factors(form):
  """Chi-square over 20,000 draws; 22.5 is the 0.1 % point of 6 degrees of freedom."""
  counts = np.bincount(_draws(_sampler(form, 100), 200), minlength=len(FACTORS))
  expected = FACTORS / FACTORS.sum() * counts.sum()
  assert ((counts - expected) ** 2 / expected).sum() < 22.5
  assert counts.max() > 2.5 * counts.min()


@pytest.mark.parametrize("form", FORMS)
def test_a_step_depends_on_nothing_read_before(form):
  in_order = [_sampler(form).indices(step) for step in range(40)]
  again = _sampler(form)
  for step in reversed(range(40)):
    np.testing.assert_array_equal(again.indices(step), in_order[step])
  assert not np.array_equal(_draws(_sampler(form, seed=1), 5), np.concatenate(in_order[:5]))


@pytest.mark.parametrize("form", FORMS)
def test_batch_size_only_cuts_the_draws_differently(form):
  """Also across the blocks of independent draws."""
  small, large = _draws(_sampler(form, 5), 2000), _draws(_sampler(form, 2000), 5)
  np.testing.assert_array_equal(small, large)


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: Repeats(FACTORS, "random"), "form of repeats is 'random'"),
    (lambda: Repeats(np.array([1.0, np.nan]), "fractional"), "finite and positive"),
    (lambda: Repeats(np.array([1.0, 0.0]), "fractional"), "finite and positive"),
    (
      lambda: Sampler(0, ("box",), {"box": (3, 1)}, {"box": Repeats(FACTORS, "fractional")}),
      "has 3 records, but 7 repeat factors",
    ),
  ],
)
def test_bad_settings_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
