"""The published detectors, full size, against what the original computes with the same weights.

Bars: activations within 1e-4 of the largest value, detections within 0.01 pixels and 1e-4 in
score, losses within 1e-5, gradients within 1e-3.
"""

import functools
import importlib
import json

import golden_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from rkd_jax.convert import detectron2
from rkd_jax.losses import total as total_lib
from rkd_jax.models import rcnn
from rkd_jax.train.optimizer import frozen_mask

CONFIGS = {"base": "base", "rkd": "rkd", "wt": "rkd_ils_weight_transfer"}
# Beyond the largest image of the goldens, which the original pads its batches to.
CANVAS = (200, 232)


@functools.cache
def config(name):
  """The published config with the goldens' fewer proposals and no sampling."""
  dataset, row = name.split("_")
  c = importlib.import_module(f"configs.{dataset}.{CONFIGS[row]}").get_config()
  c.model.padding.to = "batch"
  c.model.rpn.train = c.model.rpn.test = {"pre_nms": 500, "post_nms": 100}
  # No more RoIs than there are proposals and ground truth (104), and none dropped.
  c.model.roi.update(batch_size_per_image=112, positive_fraction=1.0)
  c.model.test.detections = 100
  c.loss.rpn.batch_size_per_image = 8192
  return c


@functools.cache
def parameters(name):
  return golden_models.parameters(name, config(name))


def close(actual, expected, tolerance):
  """Largest difference, relative to the largest expected value."""
  actual, expected = np.asarray(actual, np.float64), np.asarray(expected, np.float64)
  assert actual.shape == expected.shape
  np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


@functools.cache
def inference(name, batch):
  """Everything the detector computes on its way to detections."""
  c = config(name)

  def run(model, batch, embeddings):
    features = model.features(batch.images, batch.sizes)
    rpn = model.rpn_outputs(features, batch.sizes)
    proposals = model.propose(rpn, features, batch.sizes, train=False)
    pooled = model.roi_features(features, batch.sizes, proposals.boxes)
    logits, deltas, _ = model.roi_outputs(features, batch.sizes, proposals.boxes, embeddings)
    return features, rpn, proposals, pooled, logits, deltas, model.detect(batch, embeddings)

  golden = golden_models.load(f"{name}_infer_b{batch}")
  variables = {"params": parameters(name)}
  apply = jax.jit(functools.partial(rcnn.build(c).apply, method=run))
  embeddings = golden_models.class_embeddings(name.split("_")[0])
  found = apply(variables, golden_models.batch(golden, CANVAS), embeddings)
  return golden, jax.device_get(found)


INFERENCE = [(name, b) for name in ("coco_base", "coco_wt") for b in (1, 2)]


@pytest.mark.parametrize("name, batch", INFERENCE)
def test_features_and_rpn(name, batch):
  golden, ((features,), rpn, *_) = inference(name, batch)
  if name == "coco_wt":  # the same there, and not stored again
    golden = golden_models.load(f"coco_base_infer_b{batch}")
  _, _, h, w = golden["feat_res4"].shape
  features = features[:, :h, :w].transpose(0, 3, 1, 2)
  close(features[:, :: golden["feat_res4_chstride"]], golden["feat_res4"], 1e-4)
  close(np.abs(features).mean((0, 2, 3)), golden["feat_res4_meanabs"], 1e-4)
  valid = rpn.valid[0]
  np.testing.assert_array_equal(rpn.valid, np.broadcast_to(valid, rpn.valid.shape))
  np.testing.assert_allclose(rpn.anchors[valid], golden["anchors0"], atol=1e-4)
  count = len(features)
  logits = golden["rpn_logits0"].transpose(0, 2, 3, 1).reshape(count, -1)
  close(rpn.logits[:, valid], logits, 1e-4)
  deltas = golden["rpn_deltas0"].transpose(0, 2, 3, 1).reshape(count, -1, 4)
  close(rpn.deltas[:, valid], deltas, 1e-4)


@pytest.mark.parametrize("name, batch", INFERENCE)
def test_proposals_and_roi_head(name, batch):
  golden, (_, _, proposals, pooled, logits, deltas, _) = inference(name, batch)
  for i in range(batch):
    valid = proposals.valid[i]
    assert valid.sum() == len(golden[f"prop_boxes{i}"])
    np.testing.assert_allclose(proposals.boxes[i][valid], golden[f"prop_boxes{i}"], atol=0.01)
    close(proposals.logits[i][valid], golden[f"prop_logits{i}"], 1e-4)
    first = len(golden[f"box_feat{i}"])
    close(pooled[i][:first], golden[f"box_feat{i}"], 1e-4)
    close(logits[i][valid], golden[f"cls_logits{i}"], 1e-4)
    close(deltas[i][valid], golden[f"box_deltas{i}"], 1e-4)


@pytest.mark.parametrize("name, batch", INFERENCE)
def test_detections(name, batch):
  golden, (*_, found) = inference(name, batch)
  for i in range(batch):
    valid = found.valid[i]
    assert valid.sum() == len(golden[f"det_boxes{i}"])
    np.testing.assert_array_equal(found.classes[i][valid], golden[f"det_classes{i}"])
    np.testing.assert_array_equal(found.rois[i][valid], golden[f"det_roi{i}"])
    np.testing.assert_allclose(found.boxes[i][valid], golden[f"det_boxes{i}"], atol=0.01)
    np.testing.assert_allclose(found.scores[i][valid], golden[f"det_scores{i}"], atol=1e-4)


LOSSES = {
  "cls": "cls_loss",
  "box": "box_reg_loss",
  "rpn_cls": "loss_rpn_cls",
  "rpn_box": "loss_rpn_loc",
  "rkd_l1": "distil_l1_loss",
  "rkd_irm": "irm_loss",
  "pms": "pms_loss",
}


@functools.cache
def training(name, kind):
  """Losses and gradient of a golden step, with one row of padding in every list."""
  c = config(name)
  model = rcnn.build(c)
  dataset = name.split("_")[0]
  embeddings = golden_models.class_embeddings(dataset)
  mask = jnp.asarray(golden_models.has_boxes(dataset))
  frozen = frozen_mask(parameters(name), c.frozen)

  def loss(params, batch):
    params = jax.tree.map(lambda p, stop: jax.lax.stop_gradient(p) if stop else p, params, frozen)
    if kind == "box":
      outputs = model.apply({"params": params}, batch, embeddings, None, method=model.box_step)
      losses = total_lib.box_losses(outputs, batch, mask, None, c.loss)
    else:
      outputs = model.apply({"params": params}, batch, embeddings, method=model.image_step)
      losses = total_lib.image_losses(outputs, batch, c.loss)
    return total_lib.total(losses), (losses, outputs)

  golden = golden_models.load(f"{name}_train_{kind}")
  batch = golden_models.batch(golden, CANVAS, padding=1)
  (total, (losses, outputs)), gradient = jax.device_get(
    jax.jit(jax.value_and_grad(loss, has_aux=True))(parameters(name), batch)
  )
  return golden, total, losses, outputs, gradient


TRAINING = [("coco_base", "box"), ("coco_rkd", "box"), ("coco_wt", "box"), ("coco_wt", "image")]


@pytest.mark.parametrize("name, kind", TRAINING)
def test_losses(name, kind):
  golden, total, losses, _, _ = training(name, kind)
  for key, value in losses.items():
    np.testing.assert_allclose(value, golden[f"loss_{LOSSES[key]}"], rtol=1e-5, err_msg=key)
  if kind == "box":
    np.testing.assert_allclose(total, golden["loss_total"], rtol=1e-5)
  # Whatever the original reports beyond these is exactly zero.
  others = {k for k in golden if k.startswith("loss_")} - {f"loss_{LOSSES[k]}" for k in losses}
  assert all(golden[k] == 0 for k in others - {"loss_loss_total", "loss_total"})


@pytest.mark.parametrize("name", ["coco_base", "coco_rkd", "coco_wt"])
def test_sampled_rois(name):
  golden, _, _, outputs, _ = training(name, "box")
  for i in range(2):
    valid = outputs.rois.valid[i]
    np.testing.assert_allclose(outputs.rois.boxes[i][valid], golden[f"roi_boxes{i}"], atol=0.01)
    np.testing.assert_array_equal(outputs.rois.classes[i][valid], golden[f"roi_labels{i}"])


@pytest.mark.parametrize("name, kind", TRAINING)
def test_gradients(name, kind):
  """The norm of every parameter's gradient, and the small ones entry by entry."""
  golden, *_, gradient = training(name, kind)
  file = golden_models.GOLDEN / f"{name}_train_{kind}_gradnorms.json"
  norms = json.loads(file.read_text())
  ours = detectron2.from_params(gradient)
  for key, norm in norms.items():
    np.testing.assert_allclose(np.linalg.norm(ours[key]), norm or 0, rtol=1e-3, err_msg=key)
  trained = {key for key, value in ours.items() if np.any(value != 0)}
  assert trained <= norms.keys()
  for key, value in golden.items():
    if key.startswith("grad:"):
      name = key.removeprefix("grad:")
      np.testing.assert_allclose(
        ours[name], value, rtol=0, atol=1e-3 * np.abs(value).max(), err_msg=name
      )
  assert len(traverse_util.flatten_dict(gradient)) >= len(norms)
