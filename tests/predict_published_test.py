"""Published detectors, with and without masks: from the original's checkpoint to `predict`.

The configs are the published ones but for what may differ between a run and its use: sizes of the
evaluation, and the goldens' fewer proposals and detections.
"""

import json

import golden_models
import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

import rkd_jax
from rkd_jax.configs.coco import base as coco_base
from rkd_jax.configs.lvis import rkd_ils_weight_transfer as lvis_weight_transfer
from rkd_jax.convert import to_rkd_jax
from rkd_jax.files.torch_writer import write_pth
from rkd_jax.frozen.detector import Detector, encode_masks
from rkd_jax.predict import predict
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

SINGLE_DEVICE = True
CANVAS = (200, 232)
DETECTORS = {"coco_base": coco_base, "lvis_wt": lvis_weight_transfer}


@pytest.fixture(scope="module", params=DETECTORS)
def name(request):
  return request.param


@pytest.fixture(scope="module")
def golden(name):
  return golden_models.load(f"{name}_infer_b1")


@pytest.fixture(scope="module")
def embeddings(name):
  return golden_models.class_embeddings(name.split("_")[0])


@pytest.fixture(scope="module")
def config(name, golden):
  c = DETECTORS[name].get_config()
  height, width = golden["image0"].shape[:2]
  c.data.eval.update(canvas=CANVAS, short_sides=(min(height, width),))  # resizes to the same size
  c.model.rpn.test = {"pre_nms": 500, "post_nms": 100}
  c.model.test.detections = 100
  return c


@pytest.fixture(scope="module")
def checkpoint(name, embeddings, tmp_path_factory):
  """A file with all that the original's holds beside parameters."""
  file = tmp_path_factory.mktemp("published") / "model_final.pth"
  state = golden_models.state_dict(name)
  classes = len(embeddings)
  state["roi_heads.box_predictor.freq_weight"] = np.ones(classes, np.float32)
  state["roi_heads.box_predictor.cls_score.zs_weight"] = np.ones((512, classes + 1), np.float32)
  write_pth(file, state)
  return file


@pytest.fixture(scope="module")
def detector(config, checkpoint):
  run = str(checkpoint.parent / "run")
  to_rkd_jax(config, str(checkpoint), run)
  return Detector.restore(config, run)


def order(boxes, classes, expected_boxes, expected_classes):
  """The place of each expected detection among ours: one of its class in the same place."""
  apart = np.abs(boxes[None] - expected_boxes[:, None]).max(axis=2)
  apart = np.where(classes[None] == expected_classes[:, None], apart, np.inf)
  found = apart.argmin(axis=1)
  assert sorted(found) == list(range(len(boxes)))
  return found


def test_predictions_for_a_file_are_the_originals_detections(
  golden, config, embeddings, checkpoint, tmp_path
):
  """Through the Python interface, from the file of weights."""
  Image.fromarray(golden["image0"][..., ::-1]).save(tmp_path / "image.png")
  files, output = [tmp_path / "image.png"], tmp_path / "out"
  names = tuple(f"class {i}" for i in range(len(embeddings)))
  own = ClassEmbeddings(embeddings, names, None)
  detector = rkd_jax.load(checkpoint, config=config, class_embeddings=own)
  predict(detector, files, detector.vocabulary(), output, min_score=0.0)
  found = json.loads((output / "predictions.json").read_text())
  boxes = np.array([detection["bbox"] for detection in found])
  boxes[:, 2:] += boxes[:, :2]
  scores = np.array([detection["score"] for detection in found])
  classes = np.array([detection["category_id"] - 1 for detection in found])
  assert np.all(np.diff(scores) <= 1e-5)
  ours = order(boxes, classes, golden["det_boxes0"], golden["det_classes0"])
  np.testing.assert_allclose(boxes[ours], golden["det_boxes0"], atol=0.01)
  np.testing.assert_allclose(scores[ours], golden["det_scores0"], atol=1e-4)
  height, width = golden["image0"].shape[:2]
  if config.model.mask_head.layers:
    masks = coco_mask.decode([detection["segmentation"] for detection in found])
    assert masks.shape == (height, width, len(found)) and masks.any()
  with Image.open(output / "image.png") as picture:
    assert picture.width * height == picture.height * width


def test_boxes_and_masks_at_another_size_are_the_originals(golden, embeddings, detector):
  """Scaled to the original size, clipped, empty ones dropped, masks pasted."""
  batch = golden_models.batch(golden, CANVAS)
  height, width = golden["out_hw0"].tolist()
  assert (height, width) != golden["image0"].shape[:2]
  found = detector.detect(batch, embeddings)
  valid = found.valid[0]
  boxes, scores, classes = (x[0][valid] for x in (found.boxes, found.scores, found.classes))
  ours = order(boxes, classes, golden["final_boxes0"], golden["final_classes0"])
  np.testing.assert_allclose(boxes[ours], golden["final_boxes0"], atol=0.01)
  np.testing.assert_allclose(scores[ours], golden["final_scores0"], atol=1e-4)
  assert (found.masks is None) == ("final_masks0_area" not in golden)
  if found.masks is None:
    return
  masks = found.masks[0][valid][ours]
  pasted = coco_mask.decode(encode_masks(masks, boxes[ours], height, width))
  allowed = 1e-3 * height * width
  areas = pasted.sum((0, 1), dtype=np.int64)
  np.testing.assert_allclose(areas, golden["final_masks0_area"], rtol=0, atol=allowed)
  packed = golden["final_masks0_packed"]
  expected = np.unpackbits(packed, axis=1)[:, : height * width].reshape(-1, height, width)
  different = np.sum(pasted.transpose(2, 0, 1)[: len(expected)] != expected, axis=(1, 2))
  assert different.max() <= allowed
