import jax
import numpy as np
import pytest
from mavl_golden import arrays, assert_near

from rkd_jax.models.mavl.deformable import DeformableAttention, deformable_attention
from rkd_jax.models.mavl.pyramid import Pyramid

SHAPES = [(2, 3), (1, 2)]
# The first level counts its cells; the second one is far larger, so that a mix-up shows.
VALUES = np.array([0, 1, 2, 3, 4, 5, 100, 200], np.float32)[:, None, None]


def read(x, y, level=0):
  """One head and one point, which looks at (x, y) of a level."""
  locations = np.full((1, 1, 2, 1, 2), 0.5, np.float32)
  locations[0, 0, level, 0] = x, y
  weights = np.zeros((1, 1, 2, 1), np.float32)
  weights[0, 0, level] = 1
  return float(deformable_attention(VALUES, locations, weights, SHAPES, np.array(SHAPES))[0, 0])


@pytest.mark.parametrize(
  ("x", "y", "expected"),
  [
    (0.5 / 3, 0.25, 0),  # centres of cells
    (2.5 / 3, 0.75, 5),
    (1 / 3, 0.5, 2),  # between four: (0 + 1 + 3 + 4) / 4
    (1, 0.75, 2.5),  # on the right edge: half of the last cell, half of nothing
    (1, 1, 1.25),  # the corner: a quarter
    (2.99 / 3, 0.75, 0.51 * 5),
    (3.5 / 3, 0.75, 0),  # half a cell outside and beyond
    (-0.5 / 3, 0.75, 0),
    (0, 0.75, 1.5),
    (-100, 0.3, 0),
    (0.5, 1e6, 0),
  ],
)
def test_samples_are_bilinear_and_zero_outside(x, y, expected):
  assert read(x, y) == pytest.approx(expected, abs=1e-5)


def test_levels_do_not_bleed_into_one_another():
  """The last cell of one level and the first of the next are neighbours in memory."""
  assert read(2.5 / 3, 0.75 + 0.25, level=0) == pytest.approx(2.5)
  assert read(0.0, 0.5, level=1) == pytest.approx(50)
  assert read(0.25, 0.0, level=1) == pytest.approx(50)


def test_the_op_equals_the_original():
  golden = arrays()
  shapes = [tuple(shape) for shape in golden["op/spatial_shapes"].tolist()]
  attend = jax.vmap(lambda v, at, w: deformable_attention(v, at, w, shapes, np.array(shapes)))
  output = attend(
    golden["op/value"], golden["op/sampling_locations"], golden["op/attention_weights"]
  )
  np.testing.assert_allclose(output, golden["op/output_f64"], atol=1e-6)


def module_params():
  prefix = "opmod/param/"
  params = {}
  for key, value in arrays().items():
    if key.startswith(prefix):
      layer, kind = key.removeprefix(prefix).split(".")
      entry = ("kernel", value.T) if kind == "weight" else ("bias", value)
      params.setdefault(layer, {})[entry[0]] = entry[1]
  return {"params": params}


def pyramid(shapes, extents, valid):
  extents = np.tile(np.array(extents), (2, 1, 1))
  return Pyramid(shapes, extents, extents, valid)


@pytest.mark.parametrize("case", ["ref2", "ref2_masked"])
def test_the_module_equals_the_original(case):
  golden = arrays()
  shapes = [tuple(shape) for shape in golden["op/spatial_shapes"].tolist()]
  padding = golden["opmod/padding_mask"] & case.endswith("masked")
  output = DeformableAttention(heads=4, points=3).apply(
    module_params(),
    golden["opmod/query"],
    golden["opmod/ref2"],
    golden["opmod/src"],
    pyramid(shapes, shapes, ~padding),
  )
  assert_near(output, golden[f"opmod/out_{case}"], 2e-6)


def test_a_larger_canvas_changes_nothing():
  golden = arrays()
  shapes = [tuple(shape) for shape in golden["op/spatial_shapes"].tolist()]
  larger = [(h + 3, w + 5) for h, w in shapes]
  rng = np.random.default_rng(0)
  cells, valid, start = [], [], 0
  for (h, w), (height, width) in zip(shapes, larger):
    canvas = rng.normal(size=(2, height, width, 32)).astype(np.float32)
    canvas[:, :h, :w] = golden["opmod/src"][:, start : start + h * w].reshape(2, h, w, 32)
    inside = np.zeros((2, height, width), bool)
    inside[:, :h, :w] = ~golden["opmod/padding_mask"][:, start : start + h * w].reshape(2, h, w)
    cells.append(canvas.reshape(2, -1, 32))
    valid.append(inside.reshape(2, -1))
    start += h * w
  output = DeformableAttention(heads=4, points=3).apply(
    module_params(),
    golden["opmod/query"],
    golden["opmod/ref2"],
    np.concatenate(cells, 1),
    pyramid(larger, shapes, np.concatenate(valid, 1)),
  )
  assert_near(output, golden["opmod/out_ref2_masked"], 2e-6)
