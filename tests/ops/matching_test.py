from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.ops.boxes import pairwise_iou
from rkd_jax.ops.matching import match

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_ops.npz")
MATCHERS = {"rpn": (0.3, 0.7, True), "roi": (0.5, 0.5, False)}


def check(result, index, label):
  np.testing.assert_array_equal(result[0], index)
  np.testing.assert_array_equal(result[1], label)


@pytest.mark.parametrize("kind", ["rpn", "roi"])
def test_golden(kind):
  iou = jnp.asarray(GOLDEN["mt_iou"])
  result = match(iou, jnp.ones(len(iou), bool), *MATCHERS[kind])
  check(result, GOLDEN[f"mt_{kind}_idx"], GOLDEN[f"mt_{kind}_label"])


def test_ties_and_a_valid_all_zero_row_golden():
  result = match(jnp.asarray(GOLDEN["mt_tie_q"]), jnp.ones(3, bool), 0.3, 0.7, True)
  check(result, GOLDEN["mt_tie_idx"], GOLDEN["mt_tie_label"])


def test_the_all_zero_row_does_nothing_once_it_is_padding():
  valid = jnp.array([True, True, False])
  result = match(jnp.asarray(GOLDEN["mt_tie_q"]), valid, 0.3, 0.7, True)
  # Columns 0 and 1 tie the best of no row: row 0 has its best in column 4, row 1 in column 2.
  check(result, [0, 0, 1, 0, 0], [0, 0, 1, 0, 1])


@pytest.mark.parametrize("rows", [0, 2])
def test_without_ground_truth_all_is_background(rows):
  result = match(jnp.full((rows, 5), 0.9), jnp.zeros(rows, bool), 0.3, 0.7, True)
  check(result, GOLDEN["mt_empty_idx"], GOLDEN["mt_empty_label"])


def test_thresholds_are_inclusive_above_exclusive_below():
  iou = jnp.array([[0.25, 0.3, 0.5, 0.7, 0.9]])
  _, label = match(iou, jnp.ones(1, bool), 0.3, 0.7, False)
  np.testing.assert_array_equal(label, [0, -1, -1, 1, 1])


@pytest.mark.parametrize("kind", ["rpn", "roi"])
def test_padding_rows_anywhere_change_nothing(kind):
  iou = GOLDEN["mt_iou"]
  expected = match(jnp.asarray(iou), jnp.ones(len(iou), bool), *MATCHERS[kind])
  padding = np.array([np.zeros(iou.shape[1]), np.ones(iou.shape[1])], np.float32)
  padded = jnp.asarray(np.concatenate([iou, padding]))
  valid = jnp.arange(len(iou) + 2) < len(iou)
  check(match(padded, valid, *MATCHERS[kind]), *expected)
  index, label = match(padded[::-1], valid[::-1], *MATCHERS[kind])
  np.testing.assert_array_equal(label, expected[1])
  matched = np.asarray(padded[::-1])[np.asarray(index), np.arange(iou.shape[1])]
  np.testing.assert_array_equal(matched, iou.max(0))


def test_low_quality_matches_survive_compilation_with_the_iou():
  rng = np.random.default_rng(0)
  corner = rng.uniform(0, 90, (2, 400, 2))
  boxes = np.concatenate([corner, corner + rng.uniform(5, 40, (2, 400, 2))], -1)
  gt, anchors = boxes[:, :20].astype(np.float32), boxes[:, 20:].astype(np.float32)

  def labels(gt, anchors):
    return match(pairwise_iou(gt, anchors), jnp.ones(20, bool), 0.3, 0.99, True)[1]

  compiled = jax.jit(jax.vmap(labels))(gt, anchors)
  for i in range(2):
    iou = np.asarray(pairwise_iou(gt[i], anchors[i]))
    # Every gt has at least one anchor; distinct random boxes do not tie.
    assert np.sum(np.asarray(compiled[i]) == 1) == len(set(np.argmax(iou, axis=1).tolist()))


def test_crossed_thresholds_are_refused():
  with pytest.raises(ValueError, match="exceeds high=0"):
    match(jnp.zeros((1, 1)), jnp.ones(1, bool), 0.7, 0.3, False)


def test_claims_below_the_lowest_iou_are_void():
  """Rows that meet nothing, little and half; the fourth candidate is nobody's best."""
  iou = jnp.array([[0.0, 0.0, 0.0, 0.0], [0.0, 0.2, 0.1, 0.0], [0.0, 0.0, 0.5, 0.4]])
  valid = jnp.ones(3, bool)
  any_iou = match(iou, valid, 0.3, 0.7, True)[1]
  np.testing.assert_array_equal(any_iou, [1, 1, 1, 1])
  index, label = match(iou, valid, 0.3, 0.7, True, lowest=0.3)
  np.testing.assert_array_equal(label, [0, 0, 1, -1])
  np.testing.assert_array_equal(index[2:], [2, 2])
