"""Made-up parameters and batches do what real ones do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from narrow import narrow

from rkd_jax.benchmark import synthetic
from rkd_jax.configs.lvis import recommended
from rkd_jax.configs.lvis import rkd_ils_weight_transfer as lvis_weight_transfer
from rkd_jax.models.detector import rcnn
from rkd_jax.train.optimizer import frozen_mask


def test_synthetic_parameters_fill_the_network_and_keep_it_in_scale():
  config = narrow(lvis_weight_transfer.get_config())
  params = synthetic.params(config, np.random.default_rng(0))
  abstract = rcnn.abstract_params(config)
  assert jax.tree.map(lambda x: (x.shape, x.dtype), params) == jax.tree.map(
    lambda x: (x.shape, x.dtype), abstract
  )
  assert any(jax.tree.leaves(frozen_mask(params, config.frozen)))
  batch = synthetic.batch(config, "box", 2, (128, 128), 5, np.random.default_rng(1))
  features = functools.partial(rcnn.build(config).apply, method=rcnn.RCNN.features)
  maps = jax.jit(features)({"params": params}, batch.images, batch.sizes)
  assert all(0.05 < float(jnp.std(x)) < 20 for x in maps)


def test_synthetic_batches_hold_what_their_kind_needs():
  config = narrow(lvis_weight_transfer.get_config())
  rng = np.random.default_rng(0)
  box, image, inference = (
    synthetic.batch(config, kind, 2, (96, 160), 5, rng) for kind in ("box", "image", "inference")
  )
  assert box.ground_truth.valid.sum(axis=1).tolist() == [15, 15]
  boxes = box.ground_truth.boxes[box.ground_truth.valid]
  assert (boxes[:, 2:] - boxes[:, :2] >= 15.9).all()
  assert (boxes >= 0).all() and (boxes <= [160, 96, 160, 96]).all()
  corners = box.ground_truth.vertices[0, 0, box.ground_truth.owners[0, 0] >= 0]
  np.testing.assert_allclose(
    [corners.min(axis=0), corners.max(axis=0)], boxes[0].reshape(2, 2), atol=1e-3
  )
  assert box.regions.boxes.shape == image.regions.boxes.shape == (2, 5, 4)
  assert image.pseudo_boxes.valid.all() and image.ground_truth is None
  assert inference.regions is None and inference.pseudo_boxes is None


def test_synthetic_batches_have_pseudo_labels_behind_their_annotations():
  config, rng = narrow(recommended.get_config()), np.random.default_rng(0)
  truth = synthetic.batch(config, "box", 2, (96, 160), 5, rng).ground_truth
  annotated, labelled = config.data.box.max_boxes, config.data.box.pseudo_labels
  assert labelled and truth.boxes.shape == (2, annotated + labelled, 4)
  assert truth.valid.sum(axis=1).tolist() == [15 + labelled] * 2
  assert (truth.pseudo == (np.arange(annotated + labelled) >= annotated)).all()
  assert (truth.owners[truth.pseudo] == -1).all() and (truth.owners[:, 0] >= 0).any()
  assert (truth.scores[~truth.pseudo] == 1).all() and (truth.scores[truth.pseudo] < 1).all()
  vocabulary = synthetic.vocabulary(config, 5, rng)
  assert vocabulary.has_boxes.tolist() == [True] * 4 + [False]
  assert vocabulary.has_pseudo_labels.tolist() == [False] * 4 + [True]
