import itertools
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rkd_jax.machine.target import Target, compiled_for
from rkd_jax.ops import nms as nms_module
from rkd_jax.ops.boxes import pairwise_iou
from rkd_jax.ops.nms import nms

GOLDEN = np.load(Path(__file__).parents[1] / "golden/detector_ops.npz")


jit_nms = jax.jit(nms, static_argnames=("max_outputs", "is_sorted"))


def greedy(boxes, scores, valid, threshold, classes):
  """The definition: best first, dropping what overlaps a kept box."""
  overlap = np.asarray(jax.jit(pairwise_iou)(boxes, boxes)) > threshold
  overlap &= classes[:, None] == classes[None, :]
  kept = []
  for i in np.argsort(-scores, kind="stable"):
    if valid[i] and not overlap[kept, i].any():
      kept.append(int(i))
  return kept


def scene(seed, n):
  """Crowded boxes with duplicates, tied scores and invalid rows."""
  rng = np.random.default_rng(seed)
  corner = rng.uniform(0, 60, (n, 2))
  boxes = np.concatenate([corner, corner + rng.uniform(5, 50, (n, 2))], 1).astype(np.float32)
  boxes[n // 2 : n // 2 + n // 8] = boxes[: n // 8]
  scores = np.round(rng.uniform(-3, 3, n), 1).astype(np.float32)
  return boxes, scores, rng.uniform(size=n) < 0.8, rng.integers(0, 3, n)


def kept(result):
  index, valid = map(np.asarray, result)
  assert np.all(valid == (np.arange(len(valid)) < valid.sum()))  # the real ones come first
  return index[valid].tolist()


@pytest.fixture(params=itertools.product(["single", "tiled"], ["cpu", "tpu"]), ids="-".join)
def fast_nms(request, monkeypatch):
  """Runs a test on both paths in both forms, with tiles small enough for small scenes."""
  path, platform = request.param
  if path == "tiled":
    monkeypatch.setattr(nms_module, "_MAX_SINGLE_TILE", 0)
    monkeypatch.setattr(nms_module, "_TILE", 32)
  # A new function, so that nothing compiled with the other setting is reused.
  return jax.jit(
    compiled_for(lambda *args, **kwargs: nms(*args, **kwargs), Target(platform)),
    static_argnames=("max_outputs", "is_sorted"),
  )


def test_by_hand():
  boxes = jnp.array([[0.0, 0, 10, 10], [0, 0, 10, 8], [0, 0, 10, 5], [20, 20, 30, 30]])
  scores, valid = jnp.array([0.7, 0.9, 0.8, 0.1]), jnp.ones(4, bool)
  assert kept(jit_nms(boxes, scores, valid, 0.7, 4)) == [1, 2, 3]
  # 5/8 > 0.6: box 1 suppresses 2 as well, and 2 cannot protect 0.
  assert kept(jit_nms(boxes, scores, valid, 0.6, 4)) == [1, 3]
  assert kept(jit_nms(boxes, scores, valid, 0.6, 1)) == [1]


def test_a_suppressed_box_suppresses_nobody():
  boxes = jnp.array([[0.0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]])  # chain of IoU 3/7
  assert kept(jit_nms(boxes, jnp.array([3.0, 2.0, 1.0]), jnp.ones(3, bool), 0.4, 3)) == [0, 2]


def test_threshold_is_strict():
  boxes = jnp.array([[0.0, 0, 2, 2], [0, 0, 2, 1]])  # IoU exactly 0.5
  scores, valid = jnp.array([2.0, 1.0]), jnp.ones(2, bool)
  assert kept(jit_nms(boxes, scores, valid, 0.5, 2)) == [0, 1]
  assert kept(jit_nms(boxes, scores, valid, 0.499, 2)) == [0]


def test_ties_go_to_the_lower_index_and_invalid_rows_are_inert():
  boxes = jnp.tile(jnp.array([[0.0, 0, 4, 4]]), (4, 1))
  valid = jnp.array([False, True, True, True])
  assert kept(jit_nms(boxes, jnp.ones(4), valid, 0.5, 4)) == [1]
  assert kept(jit_nms(boxes, jnp.full(4, -jnp.inf), valid, 0.5, 4)) == [1]


def test_no_boxes():
  empty = jnp.zeros((0, 4)), jnp.zeros(0), jnp.zeros(0, bool)
  assert kept(jit_nms(*empty, 0.5, 3)) == []
  assert kept(jit_nms(jnp.zeros((5, 4)), jnp.zeros(5), jnp.zeros(5, bool), 0.5, 3)) == []


def test_golden(fast_nms):
  boxes, scores = GOLDEN["nms_boxes"], GOLDEN["nms_scores"]
  valid, classes = np.ones(300, bool), GOLDEN["nms_classes"]
  for threshold in (0.5, 0.7):
    blind = fast_nms(boxes, scores, valid, threshold, max_outputs=300)
    assert kept(blind) == GOLDEN[f"nms_keep_{threshold}"].tolist()
    by_class = fast_nms(boxes, scores, valid, threshold, max_outputs=300, classes=classes)
    assert kept(by_class) == GOLDEN[f"bnms_keep_{threshold}"].tolist()


def test_equals_greedy_on_random_scenes(fast_nms):
  for threshold in (0.3, 0.4, 0.5, 0.7, 0.9):
    for seed in range(4):
      boxes, scores, valid, classes = scene(seed, 110)
      expected = greedy(boxes, scores, valid, threshold, np.zeros(110))
      assert kept(fast_nms(boxes, scores, valid, threshold, max_outputs=110)) == expected
      expected = greedy(boxes, scores, valid, threshold, classes)
      result = fast_nms(boxes, scores, valid, threshold, max_outputs=20, classes=classes)
      assert kept(result) == expected[:20]


def test_sorted_scores_are_not_sorted_again(fast_nms):
  boxes, scores, valid, _ = scene(0, 110)
  order = np.argsort(-scores, kind="stable")
  sorted_scene = boxes[order], scores[order], valid[order]
  assert not valid.all()  # rows that do not count may stand anywhere
  run = partial(fast_nms, iou_threshold=0.4, max_outputs=30)
  assert kept(run(*sorted_scene, is_sorted=True)) == kept(run(*sorted_scene))


def test_vmap(fast_nms):
  scenes = [scene(seed, 70)[:3] for seed in range(4)]
  run = jax.vmap(partial(fast_nms, iou_threshold=0.4, max_outputs=15))
  index, valid = run(*map(np.stack, zip(*scenes)))
  for i, one in enumerate(scenes):
    assert kept((index[i], valid[i])) == greedy(*one, 0.4, np.zeros(70))[:15]


def test_many_boxes_take_the_tiled_path_as_shipped():
  n = nms_module._MAX_SINGLE_TILE + 100
  boxes, scores, valid, _ = scene(0, n)
  result = jit_nms(boxes, scores, valid, 0.8, max_outputs=n)
  assert kept(result) == greedy(boxes, scores, valid, 0.8, np.zeros(n))
