"""Published detectors, exported: the originals' final boxes come out of every format."""

import golden_models
import numpy as np
import pytest
from PIL import Image
from predict_published_test import CANVAS, DETECTORS, order

from rkd_jax.detect.detector import OpenVocabularyDetector
from rkd_jax.detect.words import Words
from rkd_jax.export.formats import KINDS, export
from rkd_jax.export.standalone import Exported, paste
from rkd_jax.frozen.detector import Detector
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

pytestmark = pytest.mark.door
SINGLE_DEVICE = True
PACKAGES = {"onnx": "onnxruntime", "savedmodel": "tensorflow"}


@pytest.fixture(scope="module", params=DETECTORS)
def golden(request):
  return golden_models.load(f"{request.param}_infer_b1") | {"name": request.param}


@pytest.fixture(scope="module")
def detector(golden):
  name = golden["name"]
  config = DETECTORS[name].get_config()
  config.data.eval.update(canvas=CANVAS, short_sides=(min(golden["image0"].shape[:2]),))
  config.model.rpn.test = {"pre_nms": 500, "post_nms": 100}
  config.model.test.detections = 100
  rows = golden_models.class_embeddings(name.split("_")[0])
  own = ClassEmbeddings(rows, tuple(f"class {i}" for i in range(len(rows))), None)
  network = Detector(config, golden_models.parameters(name, config))
  return OpenVocabularyDetector(network, Words(rows.shape[1], own))


@pytest.mark.parametrize("kind", KINDS)
def test_final_detections_are_the_originals(golden, detector, kind, tmp_path):
  if kind in PACKAGES:
    pytest.importorskip(PACKAGES[kind], reason=f"{PACKAGES[kind]} is not installed")
  export(detector, kind, tmp_path / "out")
  found = Exported(tmp_path / "out")(Image.fromarray(golden["image0"][..., ::-1]), min_score=0.0)
  ours = order(found["boxes"], found["classes"], golden["det_boxes0"], golden["det_classes0"])
  np.testing.assert_allclose(found["boxes"][ours], golden["det_boxes0"], atol=0.01)
  np.testing.assert_allclose(found["scores"][ours], golden["det_scores0"], atol=1e-4)
  assert ("masks" in found) == bool(detector.config.model.mask_head.layers)
  if "masks" in found:
    height, width = golden["image0"].shape[:2]
    pasted = paste(found["masks"][0], found["boxes"][0], height, width) >= 0.5
    x1, y1, x2, y2 = found["boxes"][0]
    assert 0 < pasted.sum() <= (x2 - x1 + 2) * (y2 - y1 + 2)
