from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.ops.roi_align import multilevel as roi_align_module

GOLDEN = np.load(Path(__file__).parents[2] / "golden/detector_ops.npz")
FEATURES = np.moveaxis(GOLDEN["ra_feat"], 1, -1)
METHODS = ["einsum", "gather", "matrix", "tiles"]

STATIC = ("method", "roi_chunk")
multilevel_roi_align = jax.jit(
  roi_align_module.multilevel_roi_align,
  static_argnames=("output_size", "spatial_scales", "bin_step", *STATIC),
)


def roi_align(features, boxes, output_size, spatial_scale, **options):
  """Of a single map."""
  return multilevel_roi_align([features], boxes, None, output_size, (spatial_scale,), **options)


def ramp(height, width):
  """Channels x and y of each cell: pooled values are sample coordinates."""
  y, x = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
  return jnp.asarray(np.stack([x, y], -1), jnp.float32)


@pytest.mark.parametrize("method", METHODS)
def test_reads_a_ramp_at_the_bin_centres(method):
  boxes = jnp.array([[8.0, 16, 40, 32], [0, 0, 64, 64], [20, 4, 28, 12], [8, 8, 24, 56]])
  pooled = roi_align(ramp(8, 8), boxes, 2, 1 / 8, method=method)
  # Box 0 in cells, after the half-cell shift: x from 0.5 to 4.5, y from 1.5 to 3.5.
  np.testing.assert_allclose(pooled[0, :, :, 0], [[1.5, 3.5], [1.5, 3.5]], atol=1e-6)
  np.testing.assert_allclose(pooled[0, :, :, 1], [[2.0, 2.0], [3.0, 3.0]], atol=1e-6)
  x = [[1.5, 3.5], [1.5, 5.5], [2.25, 2.75], [1.0, 2.0]]
  y = [[2.0, 3.0], [1.5, 5.5], [0.25, 0.75], [2.0, 5.0]]
  np.testing.assert_allclose(pooled[:, 0, :, 0], x, atol=1e-6)
  np.testing.assert_allclose(pooled[:, :, 1, 1], y, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_border_rule(method):
  row = jnp.array([[[5.0], [7.0], [9.0]]])  # one row of three cells
  # One sample per box, at x = -1.25, -1, -0.5, 2.5, 3, 3.25.
  x = np.array([-1.25, -1.0, -0.5, 2.5, 3.0, 3.25]) + 0.5
  boxes = jnp.asarray(np.stack([x - 0.25, x * 0 + 0.25, x + 0.25, x * 0 + 0.75], 1), jnp.float32)
  pooled = roi_align(row, boxes, 1, 1.0, method=method)[:, 0, 0, 0]
  np.testing.assert_allclose(pooled, [0, 5, 5, 9, 9, 0], atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_boxes_without_extent_give_zero(method):
  boxes = jnp.array([[16.0, 16, 16, 48], [16, 16, 48, 16], [0, 0, 0, 0], [48, 48, 16, 16]])
  pooled = roi_align(ramp(8, 8) + 1, boxes, 2, 1 / 8, method=method)
  np.testing.assert_array_equal(pooled, np.zeros((4, 2, 2, 2)))


def by_image(rois):
  """[2, r, 1, 1, 1]: which RoIs belong to which image."""
  return (rois[:, 0] == np.arange(2)[:, None])[:, :, None, None, None]


@pytest.mark.parametrize("method", METHODS)
def test_golden_with_many_samples_per_bin(method):
  rois, expected = GOLDEN["ra_rois_s4"], np.moveaxis(GOLDEN["ra_out_s4_o14"], 1, -1)
  pool = partial(roi_align, output_size=14, spatial_scale=1 / 4, method=method, roi_chunk=8)
  pooled = jax.vmap(lambda f: pool(f, rois[:, 1:]))(FEATURES)
  np.testing.assert_allclose(np.sum(pooled * by_image(rois), 0), expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_golden_and_its_gradients(method):
  rois, upstream = GOLDEN["ra_rois_s16"], np.moveaxis(GOLDEN["ra_upgrad_s16_o7"], 1, -1)
  own = by_image(rois)
  # Chunks that do not divide the number of RoIs.
  pool = partial(roi_align, output_size=7, spatial_scale=1 / 16, method=method, roi_chunk=8)

  def loss(features, boxes):
    pooled = jax.vmap(lambda f: pool(f, boxes))(features) * own
    return jnp.sum(pooled * upstream), jnp.sum(pooled, axis=0)

  differentiate = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))
  (to_features, to_boxes), pooled = differentiate(FEATURES, rois[:, 1:])
  np.testing.assert_allclose(pooled, np.moveaxis(GOLDEN["ra_out_s16_o7"], 1, -1), atol=1e-5)
  expected = np.moveaxis(GOLDEN["ra_featgrad_s16_o7"], 1, -1)
  np.testing.assert_allclose(to_features, expected, atol=1e-5)
  np.testing.assert_array_equal(to_boxes, np.zeros_like(rois[:, 1:]))


@pytest.mark.parametrize("method", METHODS)
def test_low_precision_features_keep_float32_weights(method):
  features = (ramp(100, 100) + 156).astype(jnp.bfloat16)  # integers that bfloat16 holds
  boxes = jnp.array([[90.3, 90.3, 91.3, 91.3]])
  pooled = roi_align(features, boxes, 1, 1.0, method=method)
  assert pooled.dtype == jnp.bfloat16
  exact = 156 + 90.3 + 0.5 - 0.5
  np.testing.assert_allclose(pooled.astype(jnp.float32), exact, atol=0.5)


@pytest.mark.parametrize("method", METHODS)
def test_pyramid_pools_each_box_from_its_level(method):
  rng = np.random.default_rng(0)
  pyramid = [jnp.asarray(rng.normal(size=(s, s + 2, 3)), jnp.float32) for s in (8, 4)]
  corner = rng.uniform(0, 40, (9, 2))
  boxes = jnp.asarray(np.concatenate([corner, corner + rng.uniform(2, 60, (9, 2))], 1), jnp.float32)
  levels = np.arange(9) % 2
  scales = (1 / 8, 1 / 16)
  pooled = multilevel_roi_align(pyramid, boxes, levels, 3, scales, method=method)
  for level in (0, 1):
    alone = roi_align(pyramid[level], boxes, 3, scales[level], method="einsum")
    np.testing.assert_allclose(pooled[levels == level], alone[levels == level], atol=1e-5)


def sample_one_by_one(features, box, output_size):
  """The definition: every sample of every bin on its own, for a scale of 1."""
  height, width, channels = features.shape

  def read(y, x):
    if not (-1 <= y <= height and -1 <= x <= width):
      return np.zeros(channels)
    y, x = np.clip(y, 0, height - 1), np.clip(x, 0, width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    y, x = y - top, x - left
    upper = (1 - x) * features[top, left] + x * features[top, right]
    lower = (1 - x) * features[bottom, left] + x * features[bottom, right]
    return (1 - y) * upper + y * lower

  bins = (box[2:] - box[:2]) / output_size
  columns, rows = np.ceil(bins).astype(int)
  pooled = np.zeros((output_size, output_size, channels))
  for i, j in np.ndindex(output_size, output_size):
    for s, t in np.ndindex(rows, columns):
      y = box[1] - 0.5 + (i + (s + 0.5) / rows) * bins[1]
      x = box[0] - 0.5 + (j + (t + 0.5) / columns) * bins[0]
      pooled[i, j] += read(y, x) / (rows * columns)
  return pooled


@pytest.mark.parametrize("method", METHODS)
def test_equals_the_definition_on_boxes_of_all_sizes(method):
  rng = np.random.default_rng(1)
  features = rng.normal(size=(12, 9, 2)).astype(np.float32)
  corner = rng.uniform(-6, 10, (25, 2))
  boxes = np.concatenate([corner, corner + rng.exponential(8, (25, 2))], 1).astype(np.float32)
  pooled = roi_align(features, boxes, 3, 1.0, method=method)
  expected = [sample_one_by_one(features, box.astype(np.float64), 3) for box in boxes]
  np.testing.assert_allclose(pooled, expected, atol=1e-5)


def test_auto_takes_einsum_on_small_maps_only():
  small, large = jnp.zeros((16, 16, 1)), jnp.zeros((256, 256, 1))
  assert roi_align_module._choose_method([small], 7) == "einsum"
  assert roi_align_module._choose_method([large], 7) == "gather"


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
def test_auto_takes_other_forms_for_accelerators(platform):
  choose = compiled_for(roi_align_module._choose_method, Target(platform))
  assert choose([jnp.zeros((50, 84, 1))], 7) == "matrix"
  assert choose([jnp.zeros((256, 256, 1)), jnp.zeros((128, 128, 1))], 7) == "tiles"


def test_tiles_of_boxes_of_very_different_sizes():
  """From a cell to the whole map of 195 tiles, more boxes than are taken together."""
  rng = np.random.default_rng(4)
  features = jnp.asarray(rng.normal(size=(98, 117, 3)), jnp.float32)
  corner, side = rng.uniform(-9, 90, (37, 2)), np.exp(rng.uniform(0, 4.8, (37, 2)))
  boxes = np.concatenate([corner, corner + side], 1).astype(np.float32)
  boxes[3] = 0, 0, 117, 98
  upstream = rng.normal(size=(37, 7, 7, 3))

  def value_and_gradient(method):
    def total(features):
      pooled = roi_align(features, boxes, 7, 1.0, method=method)
      return jnp.sum(pooled * upstream), pooled

    return jax.grad(total, has_aux=True)(features)

  for tiles, einsum in zip(value_and_gradient("tiles"), value_and_gradient("einsum"), strict=True):
    np.testing.assert_allclose(tiles, einsum, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("method", METHODS)
def test_boxes_that_are_not_finite_give_zero(method):
  features = ramp(40, 30)
  inf, nan = jnp.inf, jnp.nan
  boxes = jnp.array(
    [[2.0, 2, 30, 30], 4 * [nan], [-inf, 0, 9, 9], [1, 1, inf, inf], [1, 1, nan, 9]]
  )
  pooled = roi_align(features, boxes, 3, 1.0, method=method)
  expected = roi_align(features, boxes[:1], 3, 1.0, method="einsum")
  np.testing.assert_allclose(pooled[:1], expected, rtol=1e-5)
  np.testing.assert_array_equal(pooled[1:], jnp.zeros((4, 3, 3, 2)))


@pytest.mark.parametrize("method", METHODS)
def test_no_boxes(method):
  pool = partial(roi_align, output_size=2, spatial_scale=1.0, method=method)
  assert jax.eval_shape(pool, ramp(4, 4), jnp.zeros((0, 4))).shape == (0, 2, 2, 2)


def test_bad_arguments_are_refused():
  boxes = jnp.zeros((1, 4))
  with pytest.raises(ValueError, match="unknown method 'dense'"):
    roi_align(ramp(4, 4), boxes, 2, 1.0, method="dense")
  with pytest.raises(ValueError, match="output_size=0"):
    roi_align(ramp(4, 4), boxes, 0, 1.0)
  with pytest.raises(ValueError, match="2 feature maps but 1"):
    multilevel_roi_align([ramp(4, 4)] * 2, boxes, jnp.zeros(1, jnp.int32), 2, (1.0,))


@pytest.mark.parametrize("method", METHODS)
def test_a_larger_canvas_changes_nothing(method):
  """The border is where `cells` says, on every level; what lies beyond is not even read."""
  rng = np.random.default_rng(3)
  maps = [rng.normal(size=(h, w, 2)).astype(np.float32) for h, w in ((12, 9), (6, 5))]
  larger = [np.pad(m, ((0, 3), (0, 4), (0, 0)), constant_values=np.nan) for m in maps]
  if method != "gather":  # sums over the whole map, with weight zero: NaN would show
    larger = [np.nan_to_num(m, nan=99.0) for m in larger]
  boxes = np.array([[20, 30, 36, 48], [1, 2, 35, 47], [30, -4, 40, 60], [0, 0, 9, 9]], np.float32)
  levels = np.array([0, 1, 1, 0])
  cells = np.array([m.shape[:2] for m in maps])

  def pool(maps, cells):
    return multilevel_roi_align(maps, boxes, levels, 3, (0.25, 0.125), method=method, cells=cells)

  expected = pool(maps, None)
  np.testing.assert_allclose(pool(larger, cells), expected, rtol=1e-5, atol=1e-6)

  def total(maps):
    return jnp.sum(pool(maps, cells) * expected)

  gradient = jax.grad(total)([np.nan_to_num(m) for m in larger])
  original = jax.grad(lambda maps: jnp.sum(pool(maps, None) * expected))(maps)
  for large, small in zip(gradient, original, strict=True):
    h, w = small.shape[:2]
    np.testing.assert_allclose(large[:h, :w], small, rtol=1e-5, atol=1e-6)
    assert not np.any(large[h:]) and not np.any(large[:, w:])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("output_size", [4, 5])
def test_a_bin_step_leaves_bins_out(method, output_size):
  maps = jax.random.normal(jax.random.key(0), (9, 12, 3))
  boxes = jnp.array([[1.0, 2, 70, 60], [30, 10, 34, 90], [-8, -8, 20, 20]])
  pool = partial(
    multilevel_roi_align, levels=None, spatial_scales=(1 / 8,), boxes=boxes, method=method
  )
  every = pool([maps], output_size=output_size)
  some = pool([maps], output_size=output_size, bin_step=2)
  np.testing.assert_allclose(some, every[:, ::2, ::2], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_images_that_end_together_give_the_same(method):
  """Image 0 has only boxes of one cell per bin, image 1 has large ones."""
  maps = jax.random.normal(jax.random.key(0), (2, 9, 12, 3))
  boxes = jnp.array([[[0.0, 0, 8, 8], [9, 9, 12, 12]], [[0, 0, 96, 72], [30, 10, 34, 70]]])

  def pool(maps, boxes, axis):
    def one_image(maps, boxes):
      return roi_align_module.multilevel_roi_align(
        [maps], boxes, None, 2, (1 / 8,), method=method, batch_axis=axis
      )

    return jax.vmap(one_image, axis_name="images")(maps, boxes)

  def value_and_gradient(axis):
    def total(maps):
      pooled = pool(maps, boxes, axis)
      return jnp.sum(pooled**2), pooled

    return jax.jit(jax.grad(total, has_aux=True))(maps)

  for ours, alone in zip(value_and_gradient("images"), value_and_gradient(None), strict=True):
    np.testing.assert_allclose(ours, alone, rtol=1e-5, atol=1e-5)
