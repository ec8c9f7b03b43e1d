import functools

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from mavl_golden import arrays
from PIL import Image

from rkd_jax.frozen import mavl as infer
from rkd_jax.frozen.mavl import (
  Mavl,
  canvas_size,
  nms,
  normalize,
  resized_size,
  select_regions,
)
from rkd_jax.models.mavl.model import Mvit
from rkd_jax.weights.mavl import abstract_variables, params_from_torch
from tests.tiny_mvit import CONFIG, state_dict, tokenize

IMAGE = np.random.default_rng(0).integers(0, 256, (40, 52, 3), np.uint8)
QUERIES = ["all objects", "every dog", "all visible objects and entities"]


@functools.cache
def tiny():
  return Mavl(params_from_torch(state_dict(), CONFIG), tokenize, CONFIG, short_side=64)


def test_preprocessing_equals_the_original():
  golden = arrays()
  image = golden["C/image_uint8"]
  height, width = resized_size(*image.shape[:2], 800)
  assert (height, width) == (800, 1140)
  resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
  pixels = np.asarray(normalize(np.asarray(resized))).transpose(2, 0, 1)
  np.testing.assert_allclose(pixels[:, 5], golden["C/preprocessed_row5"], atol=2e-6)
  np.testing.assert_allclose(pixels[:, :, -1], golden["C/preprocessed_last_column"], atol=2e-6)


@pytest.mark.parametrize(
  ("size", "resized", "canvas"),
  [
    ((480, 640), (800, 1066), (800, 1088)),
    ((640, 427), (1199, 800), (1216, 800)),
    ((500, 500), (800, 800), (800, 800)),
    ((799, 800), (800, 801), (800, 960)),
    ((100, 1000), (800, 8000), (800, 8000)),
  ],
)
def test_sizes(size, resized, canvas):
  """The long side is rounded down and has no limit; a few canvases hold all images."""
  assert resized_size(*size, 800) == resized
  assert canvas_size(*resized) == canvas


def test_an_image_as_long_as_a_rope_is_refused():
  with pytest.raises(ValueError, match="more than 10 times as long"):
    tiny().infer(np.zeros((4, 41, 3), np.uint8), QUERIES)


def test_the_canvas_changes_nothing(monkeypatch):
  """More room around the resized image than the extent of the 3x3 convolutions."""
  before = tiny().infer(IMAGE, QUERIES, truncate=False)
  monkeypatch.setattr(infer, "canvas_size", lambda height, width: (height + 70, width + 33))
  after = tiny().infer(IMAGE, QUERIES, truncate=False)
  for (boxes, scores), (other_boxes, other_scores) in zip(before, after, strict=True):
    np.testing.assert_allclose(boxes, other_boxes, atol=1e-3)
    np.testing.assert_allclose(scores, other_scores, atol=1e-5)


def test_a_query_is_answered_alike_in_any_company():
  """However many queries there are, however long the others, and whether asked before."""
  together = tiny().infer(IMAGE, QUERIES, truncate=False)
  fresh = Mavl(params_from_torch(state_dict(), CONFIG), tokenize, CONFIG, short_side=64)
  for query, (boxes, scores) in zip(QUERIES, together, strict=True):
    [(alone_boxes, alone_scores)] = fresh.infer(IMAGE, [query], truncate=False)
    np.testing.assert_allclose(boxes, alone_boxes, atol=1e-3)
    np.testing.assert_allclose(scores, alone_scores, atol=1e-5)
  assert not np.allclose(together[0][1], together[1][1], atol=1e-3)
  assert tiny().infer(IMAGE, []) == []


def test_truncation_is_towards_zero_and_optional():
  exact, cut = (tiny().infer(IMAGE, QUERIES, truncate=truncate) for truncate in (False, True))
  assert (exact[0][0] < 0).any() and (exact[0][0] > 0).any()
  np.testing.assert_array_equal(cut[0][0], np.trunc(exact[0][0]))
  assert not np.array_equal(exact[0][0], cut[0][0])


@pytest.mark.parametrize(
  "image",
  [
    np.zeros((8, 8), np.uint8),
    np.zeros((8, 8, 4), np.uint8),
    np.zeros((8, 8, 3), np.float32),
    np.zeros((0, 8, 3), np.uint8),
  ],
)
def test_other_arrays_than_rgb_images_are_refused(image):
  with pytest.raises(ValueError, match=r"expected a uint8 image \[h, w, 3\].*decode to RGB"):
    tiny().infer(image, QUERIES)


def test_three_more_queries_cost_little():
  """Arithmetic of the four queries of RKD and of one, their texts included."""
  variables = abstract_variables()

  def flops(method, *inputs):
    function = lambda v, *x: Mvit().apply(v, *x, method=method)  # noqa: E731
    return jax.jit(function).lower(variables, *inputs).cost_analysis()["flops"]

  def struct(shape, dtype=jnp.float32):
    return jax.ShapeDtypeStruct(shape, dtype)

  image = flops("encode_image", struct((1, 800, 1088, 3)))
  one, four = (
    flops("query", struct((q, 300, 256)), struct((q, 8), jnp.int32), struct((q, 8), jnp.bool_))
    for q in (1, 4)
  )
  assert image + four < 1.1 * (image + one)


def test_normalised_pixels_have_the_statistics_taken_out():
  mean = np.array([124, 116, 104], np.uint8)
  pixel = normalize(mean[None, None])[0, 0]
  np.testing.assert_allclose(pixel, (mean / 255 - infer.MEAN) / infer.STD, atol=1e-6)
  assert np.abs(pixel).max() < 0.02


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7])
def test_suppression_equals_the_original(threshold):
  golden = arrays()
  kept = nms(golden["nms/boxes"], golden["nms/scores"], threshold)
  np.testing.assert_array_equal(golden["nms/boxes"][kept], golden[f"nms/kept_boxes_{threshold}"])
  np.testing.assert_array_equal(golden["nms/scores"][kept], golden[f"nms/kept_scores_{threshold}"])


def test_the_last_pixel_belongs_to_a_box():
  """Two boxes of 10 x 10 pixels that share 5 columns: IoU 50 / 150, kept at just that."""
  boxes = np.array([[0, 0, 9, 9], [5, 0, 14, 9]])
  scores = np.array([0.9, 0.8])
  assert nms(boxes, scores, 50 / 150).tolist() == [0, 1]
  assert nms(boxes, scores, 0.333).tolist() == [0]
  assert nms(boxes[:0], scores[:0], 0.5).tolist() == []


def test_regions_pool_the_best_of_each_query():
  """The third box of the first query is not among its two best; one overlaps across queries."""
  first = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]], np.float32)
  second = np.array([[0, 1, 9, 9], [60, 0, 69, 9]], np.float32)
  answers = [
    (first, np.array([0.5, 0.9, 0.4], np.float32)),
    (second, np.array([0.6, 0.1], np.float32)),
  ]
  boxes, scores = select_regions(answers, per_query=2)
  assert boxes[:, 0].tolist() == [20, 0, 60]
  assert boxes[1, 1] == 1
  np.testing.assert_allclose(scores, [0.9, 0.6, 0.1])
  assert select_regions(answers, per_query=2, top=1)[0].tolist() == [[20, 0, 29, 9]]
