"""The sampler is a pure function of (seed, step), whoever asks and in whatever order."""

import collections
import hashlib

import numpy as np
import pytest

from rkd_jax.inputs.sampler import Repeats, Sampler, host_rows

SCHEDULE = ("box", "box", "image")
SIZES = {"box": (7, 3), "image": (5, 8)}


def _sampler(seed=0):
  return Sampler(seed, SCHEDULE, SIZES)


def test_kinds_follow_the_schedule_for_ever():
  assert [_sampler().kind(step) for step in (0, 1, 2, 3, 5, 3_000_002)] == [
    "box",
    "box",
    "image",
    "box",
    "image",
    "image",
  ]


@pytest.mark.parametrize("kind", ["box", "image"])
def test_every_epoch_holds_every_record_once_and_drops_none_at_its_border(kind):
  sampler = _sampler()
  num_records, _ = SIZES[kind]
  steps = [step for step in range(300) if sampler.kind(step) == kind]
  draws = np.concatenate([sampler.indices(step) for step in steps])
  epochs = len(draws) // num_records
  for epoch in np.split(draws[: epochs * num_records], epochs):
    assert sorted(epoch) == list(range(num_records))
  counts = collections.Counter(draws.tolist())
  assert max(counts.values()) - min(counts.values()) <= 1


def test_epochs_are_in_different_order():
  sampler = Sampler(0, ("box",), {"box": (50, 50)})
  assert not np.array_equal(sampler.indices(0), sampler.indices(1))


def test_a_step_does_not_depend_on_what_was_read_before():
  in_order = [_sampler().indices(step) for step in range(20)]
  resumed = _sampler()
  for step in reversed(range(20)):
    np.testing.assert_array_equal(resumed.indices(step), in_order[step])


def test_far_steps_are_read_without_the_steps_before():
  sampler = Sampler(1, ("box",), {"box": (1000, 16)})
  far = sampler.indices(10**12)
  assert far.shape == (16,)
  assert far.min() >= 0 and far.max() < 1000


def test_order_is_pinned():
  # A change of these numbers changes what every resumed run reads.
  assert Sampler(3, ("box",), {"box": (6, 6)}).indices(0).tolist() == [5, 4, 0, 2, 1, 3]


@pytest.mark.parametrize(
  ("one", "other"),
  [
    ((0, 4), (1, 4)),
    ((0, 4), (0, 5)),
    ((0, 4), (0, 4, 0)),
    ((0, 4, 0), (0, 4, 1)),
    ((0, 4, 1), (0, 5, 0)),
  ],
)
def test_randomness_differs_between_seeds_steps_and_rows(one, other):
  def numbers(seed, *position):
    return _sampler(seed).rng(*position).random(4)

  np.testing.assert_array_equal(numbers(*one), numbers(*one))
  assert not np.array_equal(numbers(*one), numbers(*other))


def test_seed_decides_the_order():
  one, other = (Sampler(seed, ("a",), {"a": (50, 50)}).indices(0) for seed in (0, 1))
  assert not np.array_equal(one, other)


# Of 11 records the 2nd, 5th and 9th stand; their factors are 4 of the 16 of all.
STANDING = np.isin(np.arange(11), [1, 4, 8])
FACTORS = np.array([1, 1, 2, 1, 2, 1.5, 1, 1, 1, 2.5, 2])


def _grouped(form="", seed=0, batch_size=4, schedule=("box",)):
  repeats = {"box": Repeats(FACTORS, form)} if form else {}
  sizes = {"box": (11, batch_size), "image": (5, 8)}
  return Sampler(seed, schedule, sizes, repeats, {"box": STANDING})


@pytest.mark.parametrize("form", ["", "stochastic", "fractional"])
def test_batches_are_of_one_orientation(form):
  sampler = _grouped(form, schedule=SCHEDULE)
  for step in range(200):
    if sampler.kind(step) == "image":
      assert not sampler.stands(step)  # mixed
    else:
      assert (STANDING[sampler.indices(step)] == sampler.stands(step)).all()


def test_batches_are_shared_out_evenly():
  """Standing batches are 3 / 11 of all, to within one at any time and from any seed on."""
  starts = set()
  for seed in range(30):
    stands = [_grouped(seed=seed).stands(step) for step in range(110)]
    assert (np.abs(np.cumsum(stands) - np.arange(1, 111) * 3 / 11) < 1).all()
    starts.add(tuple(stands[:11]))
  assert len(starts) > 5
  assert sum(_grouped("stochastic").stands(step) for step in range(160)) == 40


def test_orientation_favours_no_record():
  """Drawn evenly, no record is ever further ahead of another than batches of its own kind allow."""
  draws = np.concatenate([_grouped().indices(step) for step in range(1100)])
  counts = np.bincount(draws, minlength=11)
  assert counts.sum() == 4400 and np.abs(counts - 400).max() <= 2


@pytest.mark.parametrize("form", ["stochastic", "fractional"])
@pytest.mark.parametrize("batch_size", [4, 64])
def test_grouped_records_come_in_proportion_to_their_factors(form, batch_size):
  """Chi-square over 25,600 draws; 29.6 is the 0.1 % point of 10 degrees of freedom."""
  sampler = _grouped(form, batch_size=batch_size)
  draws = np.concatenate([sampler.indices(step) for step in range(25_600 // batch_size)])
  counts, expected = np.bincount(draws, minlength=11), FACTORS / FACTORS.sum() * 25_600
  assert ((counts - expected) ** 2 / expected).sum() < 29.6


@pytest.mark.parametrize("standing", [np.zeros(11, bool), np.ones(11, bool)])
def test_records_of_one_orientation_are_drawn_as_ever(standing):
  sampler = Sampler(0, ("box",), {"box": (11, 11)}, {}, {"box": standing})
  for step in range(10):
    assert sampler.stands(step) == standing[0]
    assert sorted(sampler.indices(step)) == list(range(11))


@pytest.mark.parametrize("form", ["", "stochastic", "fractional"])
def test_grouped_steps_depend_on_nothing_read_before(form):
  def digest(sampler, step):
    return hashlib.sha256(bytes([sampler.stands(step)]) + sampler.indices(step).tobytes()).digest()

  in_order = [digest(_grouped(form), step) for step in range(40)]
  again = _grouped(form)
  assert [digest(again, step) for step in reversed(range(40))] == in_order[::-1]
  assert digest(_grouped(form, seed=1), 0) != in_order[0]


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_host_rows_cover_the_batch_once(hosts):
  rows = [host_rows(8, host, hosts) for host in range(hosts)]
  assert [row for share in rows for row in share] == list(range(8))
  assert {len(share) for share in rows} == {8 // hosts}


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (lambda: host_rows(6, 0, 4), "6 is not divisible by 4 hosts"),
    (lambda: host_rows(8, 4, 4), "host_index is 4"),
    (lambda: Sampler(0, (), {}), "schedule is empty"),
    (lambda: Sampler(0, ("box", "txt"), {"box": (3, 2)}), "names 'txt'"),
    (lambda: Sampler(0, ("box",), {"box": (0, 2)}), "has 0 records"),
    (
      lambda: Sampler(0, ("box",), {"box": (3, 1)}, {}, {"box": STANDING}),
      "has 3 records, but 11 orientations",
    ),
    (lambda: Sampler(-1, ("box",), {"box": (3, 2)}), "seed is -1"),
  ],
)
def test_bad_settings_are_named(make, message):
  with pytest.raises(ValueError, match=message):
    make()
