import json
import zlib
from pathlib import Path

import jax
import numpy as np
import pytest

from rkd_jax.models.detector.zero_shot_classifier import ZeroShotClassifier

GOLDEN = np.load(Path(__file__).parents[2] / "golden/detector_classifier.npz")


def golden_weights(dataset):
  """Regenerates the weights of the golden run from names, shapes and scales."""
  weights = {}
  for entry in json.loads(str(GOLDEN[f"{dataset}_manifest"])):
    seed = zlib.crc32(f"{entry['name']}#ops".encode()) & 0x7FFFFFFF
    values = np.random.RandomState(seed).standard_normal(entry["shape"]).astype(np.float32)
    weights[entry["name"]] = np.float32(entry["offset"]) + np.float32(entry["scale"]) * values
  return weights


def parameters(weights, weight_transfer=True):
  def dense(name):
    return {"kernel": weights[f"{name}.weight"].T, "bias": weights[f"{name}.bias"]}

  params = {"projection": dense("linear")}
  if weight_transfer:
    params["transfer"] = {name: dense(name) for name in ("fc1", "fc2", "fc3", "fc4")}
  if "cls_bias" in weights:
    params["bias"] = weights["cls_bias"][0]
  return params


@pytest.mark.parametrize("dataset", ["coco", "lvis"])
def test_equals_the_original_with_weight_transfer(dataset):
  """The golden's text columns are not of unit length and are multiplied as they are."""
  weights = golden_weights(dataset)
  text = weights["zs_weight"].T[:-1]  # the original stores background as the last column
  bias = weights.get("cls_bias", [None])[0]
  model = ZeroShotClassifier(512, bias=bias, weight_transfer=(512, 1024))
  logits, distilled = jax.jit(model.apply)(
    {"params": parameters(weights)}, GOLDEN[f"{dataset}_in"], text
  )
  np.testing.assert_allclose(distilled, GOLDEN[f"{dataset}_linear_out"], rtol=1e-5, atol=2e-5)
  lengths = np.linalg.norm(text, axis=1)
  offset = 0 if bias is None else bias
  expected = (GOLDEN[f"{dataset}_out"][:, :-1] - offset) / lengths + offset
  np.testing.assert_allclose(logits[:, :-1], expected, rtol=1e-5, atol=5e-5)
  np.testing.assert_array_equal(logits[:, -1], np.float32(offset))


def test_plain_classifier_by_hand():
  """f(x) = x + (0, 1): cosines of (3, 4) with the axes, times 50, background 0."""
  params = {"projection": {"kernel": np.eye(2, dtype="f"), "bias": np.array([0, 1], "f")}}
  text = np.array([[7, 0], [0, 0.1], [-1, 0]], np.float32)
  x = np.array([[3.0, 3.0]], np.float32)
  logits, distilled = ZeroShotClassifier(2).apply({"params": params}, x, text)
  np.testing.assert_allclose(distilled, [[3, 4]], rtol=1e-6)
  np.testing.assert_allclose(logits, [[30, 40, -30, 0]], rtol=1e-6)
  params["bias"] = np.float32(-4.6)
  biased, _ = ZeroShotClassifier(2, bias=-4.6).apply({"params": params}, x, text)
  np.testing.assert_allclose(biased, logits - 4.6, rtol=1e-6)
