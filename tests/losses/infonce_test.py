import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.losses.infonce import empty_queue, enqueue, region_infonce
from rkd_jax.structures import RegionQueue

RNG = np.random.default_rng(0)
REGIONS, DIM, LENGTH = 6, 5, 7
STUDENT, TEACHER = RNG.normal(size=(2, REGIONS, DIM)).astype(np.float32)
VALID = np.array([1, 1, 0, 1, 0, 1], bool)
# The last rows were never filled.
QUEUE = RegionQueue(
  jnp.asarray(RNG.normal(size=(LENGTH, DIM)), jnp.float32), jnp.arange(LENGTH) < 4
)

loss = jax.jit(region_infonce, static_argnames=("temperature", "duplicates"))


def unit(rows):
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def expected(student, teacher, valid, temperature, duplicates=1.0, queue=None):
  """The same by loops, in float64."""
  student, teacher = unit(student.astype(np.float64)), unit(teacher.astype(np.float64))
  losses = []
  for i in np.flatnonzero(valid):
    others = [teacher[j] for j in np.flatnonzero(valid) if j != i]
    if queue is not None:
      others += list(unit(np.float64(queue.embeddings)[np.asarray(queue.valid)]))
    negatives = [row for row in others if row @ teacher[i] <= duplicates]
    own = np.exp(temperature * student[i] @ teacher[i])
    every = own + sum(np.exp(temperature * student[i] @ row) for row in negatives)
    losses.append(np.log(every / own))
  return np.mean(losses)


def test_hand_computed():
  """Cosines with the teacher's rows [[0.6, 0.8], [0, 1]]; a factor of 2."""
  student = jnp.array([[3.0, 4.0], [0.0, 2.0]])
  found = loss(student, jnp.eye(2), jnp.ones(2, bool), 2.0)
  first = np.log(np.exp(1.2) + np.exp(1.6)) - 1.2
  second = np.log(1 + np.exp(2.0)) - 2.0
  assert float(found) == pytest.approx((first + second) / 2, rel=1e-6)
  # A third candidate at cosines [0.8, 1] from the queue, and one row that was never filled.
  queue = RegionQueue(jnp.array([[0.0, 5.0], [1.0, 0.0]]), jnp.array([True, False]))
  found = loss(student[:1], jnp.eye(2)[:1], jnp.ones(1, bool), 2.0, queue=queue)
  assert float(found) == pytest.approx(first, rel=1e-6)


@pytest.mark.parametrize("queue", [None, QUEUE])
@pytest.mark.parametrize("duplicates", [1.0, 0.1])
def test_as_by_loops(queue, duplicates):
  found = loss(STUDENT, TEACHER, VALID, 20.0, duplicates, queue)
  wanted = expected(STUDENT, TEACHER, VALID, 20.0, duplicates, queue)
  assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_each_argument_matters():
  cases = [(20.0, 1.0, None), (10.0, 1.0, None), (20.0, 0.1, None), (20.0, 1.0, QUEUE)]
  found = [expected(STUDENT, TEACHER, VALID, *case) for case in [*cases, (20.0, 0.1, QUEUE)]]
  assert np.diff(np.sort(found)).min() > 1e-3


def test_a_region_that_comes_again_is_not_its_own_negative():
  plain = loss(STUDENT, TEACHER, VALID, 20.0, 0.999)
  again = RegionQueue(3 * TEACHER[:1], np.ones(1, bool))
  only = np.arange(REGIONS) == 0
  assert float(loss(STUDENT, TEACHER, only, 20.0, 0.999, again)) == 0
  assert float(loss(STUDENT, TEACHER, only, 20.0, 1.0, again)) == pytest.approx(np.log(2), rel=1e-5)
  # To the other regions it is one more negative, a second time.
  assert loss(STUDENT, TEACHER, VALID, 20.0, 0.999, again) > plain


def test_order_length_and_padding_do_not_matter():
  wanted = loss(STUDENT, TEACHER, VALID, 20.0, 0.5, QUEUE)
  order, back = RNG.permutation(REGIONS), np.array([2, 0, 1, 3, 6, 5, 4])
  turned = RegionQueue(0.1 * QUEUE.embeddings[back], QUEUE.valid[back])
  found = loss(7 * STUDENT[order], 3 * TEACHER[order], VALID[order], 20.0, 0.5, turned)
  assert float(found) == pytest.approx(float(wanted), rel=1e-5)
  more = np.pad(STUDENT, ((0, 3), (0, 0))), np.pad(TEACHER, ((0, 3), (0, 0)), constant_values=9)
  found = loss(*more, np.pad(VALID, (0, 3)), 20.0, 0.5, QUEUE)
  assert float(found) == pytest.approx(float(wanted), rel=1e-5)


@pytest.mark.parametrize("duplicates", [1.0, 0.999])
@pytest.mark.parametrize("queue", [None, QUEUE, empty_queue(4, DIM)])
def test_gradients_are_finite_where_rows_are_equal_empty_or_zero(duplicates, queue):
  gradient = jax.jit(
    jax.value_and_grad(lambda s, t, v: region_infonce(s, t, v, 20.0, duplicates, queue))
  )
  same, zero = np.ones((REGIONS, DIM), np.float32), np.zeros((REGIONS, DIM), np.float32)
  for student, teacher in ((STUDENT, TEACHER), (same, same), (zero, zero), (STUDENT, same)):
    for valid in (VALID, ~VALID & False, np.arange(REGIONS) == 1):
      value, slope = gradient(student, teacher, valid)
      assert np.isfinite(value) and np.isfinite(slope).all()
      np.testing.assert_array_equal(slope[~valid], 0)
      if not valid.any() or (valid.sum() == 1 and queue is not QUEUE):
        assert value == 0
        np.testing.assert_array_equal(slope, 0)
  assert np.abs(gradient(STUDENT, TEACHER, VALID)[1]).max() > 1e-3


def test_the_gradient_draws_to_the_own_teacher_and_away_from_the_others():
  slope = jax.jit(jax.grad(region_infonce), static_argnums=(3, 4))(
    STUDENT, TEACHER, VALID, 20.0, 1.0, QUEUE
  )
  moved = loss(STUDENT - 1e-2 * slope, TEACHER, VALID, 20.0, queue=QUEUE)
  assert moved < loss(STUDENT, TEACHER, VALID, 20.0, queue=QUEUE)


@pytest.mark.parametrize("rows", [1, 3, 9])
def test_a_queue_holds_the_last_valid_regions_the_newest_first(rows):
  """Batches of fewer and of more regions than it holds, as a deque has them, to the bit."""
  queue, wanted = empty_queue(LENGTH, DIM), collections.deque(maxlen=LENGTH)
  push, rng = jax.jit(enqueue), np.random.default_rng(rows)
  filled = []
  for _ in range(25):
    teacher = rng.normal(size=(rows, DIM)).astype(np.float32)
    valid = rng.random(rows) < 0.6
    queue = push(queue, teacher, valid)
    wanted.extendleft(teacher[valid][::-1])
    np.testing.assert_array_equal(queue.valid, np.arange(LENGTH) < len(wanted))
    held = np.zeros((LENGTH, DIM), np.float32)
    held[: len(wanted)] = wanted
    np.testing.assert_array_equal(queue.embeddings, held)
    filled.append(len(wanted))
  assert filled[0] < LENGTH == filled[-1]
