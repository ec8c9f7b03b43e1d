from pathlib import Path

import jax.numpy as jnp
import numpy as np

from rkd_jax.ops.boxes import assign_levels

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_ops.npz")


def test_golden():
  np.testing.assert_array_equal(assign_levels(jnp.asarray(GOLDEN["lvl_boxes"])), GOLDEN["lvl_out"])


def test_doubling_the_side_goes_one_level_up():
  side = jnp.array([0.0, 55.0, 111.0, 112.0, 224.0, 448.0, 5000.0])
  boxes = jnp.stack([jnp.zeros(7), jnp.zeros(7), side, side], axis=1)
  np.testing.assert_array_equal(assign_levels(boxes), [0, 0, 0, 1, 2, 3, 3])


def test_other_pyramids():
  boxes = jnp.array([[0.0, 0.0, 32.0, 32.0], [0.0, 0.0, 64.0, 64.0]])
  levels = assign_levels(boxes, min_level=3, max_level=4, canonical_size=32, canonical_level=3)
  np.testing.assert_array_equal(levels, [0, 1])
