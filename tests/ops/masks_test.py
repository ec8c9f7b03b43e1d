from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pycocotools import mask as coco_mask

from rkd_jax.ops.masks import _edge_marks, paste
from rkd_jax.ops.masks import rasterize as rasterize_one
from rkd_jax.ops.polygons import pack_polygons

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_masks.npz")
rasterize = jax.jit(rasterize_one, static_argnames="size")
rasterize_all = jax.jit(jax.vmap(rasterize_one))


def batch(instances, capacity):
  packed = [pack_polygons(polygons, capacity) for polygons in instances]
  return [np.stack(arrays) for arrays in zip(*packed, strict=True)]


def cut(flat, lengths):
  return np.split(flat, np.cumsum(lengths)[:-1])


def reference(instances, boxes, size=28):
  """The original's targets: pycocotools on the polygons in the frame of their box."""
  runs = []
  for polygons, box in zip(instances, boxes, strict=True):
    sides = box[2:] - box[:2]
    moved = []
    for polygon in polygons:
      vertices = np.asarray(polygon, np.float32).astype(np.float64).reshape(-1, 2) - box[:2]
      vertices[:, 0] *= size / max(sides[0], 0.1)
      vertices[:, 1] *= size / max(sides[1], 0.1)
      moved.append(vertices.reshape(-1))
    runs.append(coco_mask.merge(coco_mask.frPyObjects(moved, size, size)))
  return np.moveaxis(coco_mask.decode(runs), -1, 0).astype(bool)


# Side of the scene, and whether coordinates are whole: those meet rounding ties all the time.
SCENES = {
  "pixels": (28, True),
  "photo": (600, False),
  "photo, whole pixels": (60, True),
  "large photo": (2000, False),
  "one pixel": (1, False),
  "far beyond the box": (4000, False),
}


def random_instance(rng, side, whole, capacity=24):
  """Up to three polygons, some degenerate, and a box near them, some tiny or flat."""
  polygons = []
  for _ in range(rng.integers(1, 4)):
    vertices = rng.uniform(-0.3 * side, side, (rng.integers(3, capacity // 3 + 1), 2))
    if whole:
      vertices = np.round(vertices)
    if rng.random() < 0.2:
      vertices[1] = vertices[0]
    if rng.random() < 0.2:
      vertices[-1] = vertices[0]
    if rng.random() < 0.1:
      vertices[:, 0] = vertices[0, 0]
    polygons.append(vertices.reshape(-1).tolist())
  low, sides = rng.uniform(0, side / 2, 2), rng.uniform(0, side, 2)
  if whole:
    low, sides = np.round(low), np.where(rng.random() < 0.5, 28, np.round(sides))
  if rng.random() < 0.1 and side <= 600:  # pycocotools walks millions of cells in larger ones
    sides = rng.uniform(0, 1, 2)
  if rng.random() < 0.05:
    sides[rng.integers(2)] = 0
  return polygons, np.concatenate([low, low + sides]).astype(np.float32)


@pytest.mark.parametrize("scene", SCENES)
def test_rasterize_equals_pycocotools(scene):
  side, whole = SCENES[scene]
  rng = np.random.default_rng(list(SCENES).index(scene))
  instances, boxes = zip(*[random_instance(rng, side, whole) for _ in range(400)], strict=True)
  expected = reference(instances, boxes)
  assert expected.any((1, 2)).mean() > 0.2  # the scenes are not empty
  got = np.asarray(rasterize_all(*batch(instances, 24), np.stack(boxes)))
  np.testing.assert_array_equal(got, expected)


def test_rasterize_meets_rounding_ties_as_the_original():
  """Vertices on the fine grid: here the last bit of the original's doubles shows."""
  rng = np.random.default_rng(0)
  instances = [[vertices / 5] for vertices in rng.integers(-200, 340, (400, 48))]
  boxes = np.tile(np.float32([0, 0, 28, 28]), (len(instances), 1))
  expected = reference(instances, boxes)
  got = np.asarray(rasterize_all(*batch(instances, 24), boxes))
  np.testing.assert_array_equal(got, expected)


def test_steps_of_edges_are_those_of_doubles():
  """The walk along an edge, as the original computes it, for edges short and long."""
  rng = np.random.default_rng(1)
  marks = jax.jit(_edge_marks, static_argnums=2)
  for reach in [40, 160, 160, 400, 3000, 2**21]:
    start, end = rng.integers(-reach // 3, reach, (2, 20_000, 2), dtype=np.int32)
    got = np.asarray(marks(start, end, 28))
    np.testing.assert_array_equal(got, _marks_of_doubles(start, end, 28))


def _marks_of_doubles(start, end, size):
  """`_edge_marks` step by step as pycocotools walks, for the columns of one edge at a time."""
  (x0, y0), (x1, y1) = start.T.astype(float), end.T.astype(float)
  steep = np.abs(x1 - x0) < np.abs(y1 - y0)
  swap = np.where(steep, y0 > y1, x0 > x1)
  x0, x1, y0, y1 = (np.where(swap, b, a) for a, b in ((x0, x1), (x1, x0), (y0, y1), (y1, y0)))
  marks = np.zeros((len(x0), size), np.uint32)
  with np.errstate(divide="ignore", invalid="ignore"):
    slope = np.where(steep, (x1 - x0) / (y1 - y0), (y1 - y0) / (x1 - x0))
  for column in range(size):
    low = 5.0 * column + 2
    crosses = (np.minimum(x0, x1) <= low) & (np.maximum(x0, x1) > low)
    flat = np.minimum(*(np.floor(y0 + slope * (low - x0 + i) + 0.5) for i in (0, 1)))
    # The steps about the crossing; the last before it changes column.
    with np.errstate(divide="ignore", invalid="ignore"):
      near = np.floor((low + 0.5 - x0) / slope)
      steps = near + np.arange(-3, 4)[:, None]
      before = (np.floor(x0 + slope * steps + 0.5) <= low) == (slope > 0)
    row = np.where(steep, y0 + near - 4 + before.sum(0), flat)
    row = np.clip(np.floor((row + 2) / 5), 0, 32)
    drawn = crosses & (row < 32)
    bits = np.uint32(0xFFFFFFFF) << np.where(drawn, row, 0).astype(np.uint32)
    marks[:, column] = np.where(drawn, bits, 0)
  return marks


def test_rasterize_equals_the_original():
  owners = GOLDEN["mk_poly_owner"]
  polygons = cut(GOLDEN["mk_poly_flat"], GOLDEN["mk_poly_len"])
  instances = [
    [p for p, owner in zip(polygons, owners, strict=True) if owner == i] for i in range(8)
  ]
  got = rasterize_all(*batch(instances, 24), GOLDEN["mk_boxes"])
  np.testing.assert_array_equal(got, GOLDEN["mk_targets"])


def test_training_targets_equal_the_original():
  """Each foreground RoI has the target of one of the instances."""
  polygons = [
    p for i in "01" for p in cut(GOLDEN[f"train_gt_poly{i}"], GOLDEN[f"train_gt_poly{i}_len"])
  ]
  # One instance of no polygons: the shapes are those of the test above.
  vertices, owners = batch([*([p] for p in polygons), []], 24)
  targets = np.unpackbits(GOLDEN["train_mask_tgt_packed"], axis=1)[:, :784].reshape(-1, 28, 28)
  for box, target in zip(GOLDEN["train_mask_roi_boxes"], targets, strict=True):
    got = np.asarray(rasterize_all(vertices, owners, np.tile(box, (len(vertices), 1))))
    assert (got == target).all((1, 2)).any()


def test_square_by_hand():
  """Pixels 1 to 2 of 4; one side of the frame is twice as long, so its pixels are too."""
  vertices, owners = pack_polygons([[12, 21, 16, 21, 16, 23, 12, 23]], 8)
  got = rasterize(vertices, owners, jnp.array([10.0, 20, 18, 24]), size=4)
  expected = np.zeros((4, 4), bool)
  expected[1:3, 1:3] = True
  np.testing.assert_array_equal(got, expected)


def test_polygons_are_united():
  """Overlapping parts do not cancel, unlike a polygon that covers itself."""
  left, right = [0, 0, 3, 0, 3, 4, 0, 4], [1, 0, 4, 0, 4, 4, 1, 4]
  box = jnp.array([0.0, 0, 4, 4])
  assert rasterize(*pack_polygons([left, right], 8), box, size=4).all()
  assert not rasterize(*pack_polygons([left + left], 8), box, size=4).any()


def test_more_padding_changes_nothing():
  polygons = [[3, 2, 20, 5, 11, 25], [5, 15, 26, 17, 25, 27, 6, 24]]
  box = jnp.array([1.0, 2, 27, 26])
  short = rasterize(*pack_polygons(polygons, 8), box)
  assert short.any()
  np.testing.assert_array_equal(rasterize(*pack_polygons(polygons, 30), box), short)


def test_instance_without_polygons_is_empty():
  assert not rasterize(*pack_polygons([], 8), jnp.array([0.0, 0, 9, 9])).any()


def test_rasterize_inside_a_gradient():
  """Integers of 64 bits stay inside: neither dtypes nor gradients of the program around change."""
  vertices, owners = pack_polygons([[0, 0, 9, 0, 9, 9]], 4)

  @jax.jit
  def loss(scale, box):
    return jnp.sum(scale * rasterize_one(vertices, owners, box))

  value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(2.0, jnp.array([0.0, 0, 9, 9]))
  assert value.dtype == jnp.float32
  assert float(value) > 0
  assert float(gradients[0]) == float(value) / 2
  np.testing.assert_array_equal(gradients[1], np.zeros(4))


def test_rasterize_refuses_a_size_beyond_a_word():
  with pytest.raises(ValueError, match="size=33"):
    rasterize_one(*pack_polygons([], 4), jnp.zeros(4), size=33)


def unpack(packed, height, width):
  bits = np.unpackbits(packed, axis=1)[:, : height * width]
  return bits.reshape(-1, height, width).astype(bool)


def test_paste_equals_the_original():
  height, width = (int(n) for n in GOLDEN["ps_hw"])
  pasted = np.stack(
    [
      paste(m, b, height, width)
      for m, b in zip(GOLDEN["ps_masks"], GOLDEN["ps_boxes"], strict=True)
    ]
  )
  np.testing.assert_array_equal(pasted >= 0.5, unpack(GOLDEN["ps_out_packed"], height, width))
  np.testing.assert_array_equal((pasted[:3] * 255).astype(np.uint8), GOLDEN["ps_soft_u8"])


def test_final_masks_equal_the_original():
  _, height, width = (int(n) for n in GOLDEN["final_shape"])
  pairs = zip(GOLDEN["final_probs"], GOLDEN["final_boxes"], strict=True)
  masks = np.stack([paste(m, b, height, width) >= 0.5 for m, b in pairs])
  np.testing.assert_array_equal(masks, unpack(GOLDEN["final_packed"], height, width))
  np.testing.assert_array_equal(masks.sum((1, 2)), GOLDEN["final_area"])


def test_paste_by_hand():
  """Two cells over four pixels: a pixel centre lies a quarter cell from the cell's."""
  pasted = paste(np.array([[0.0, 1.0]], np.float32), np.array([1.0, 0, 5, 1]), 1, 7)
  np.testing.assert_allclose(pasted, [[0, 0, 0.25, 0.75, 0.75, 0.25, 0]], atol=1e-6)


@pytest.mark.parametrize(
  "box", [[5, 5, 5, 9], [9, 9, 3, 3], [-40, -40, -20, -20], [50, 50, 70, 70], [-40, 2, -20, 9]]
)
def test_paste_outside_or_without_extent_is_empty(box):
  assert not paste(np.ones((4, 4), np.float32), np.array(box, np.float32), 12, 16).any()
