"""The released sizes against the original; cases A and B of the goldens, in one batch."""

import jax
import numpy as np
import pytest
from mavl_golden import TOKEN_IDS, VOCAB_SIZE, StateDict, arrays, assert_near, standard_normal

from rkd_jax.frozen.mavl import Mavl, select_regions
from rkd_jax.models.mavl.model import Mvit, MvitConfig
from rkd_jax.models.mavl.pyramid import STRIDES
from rkd_jax.models.mavl.tokenizer import pad_rows
from rkd_jax.weights.mavl import params_from_torch

SINGLE_DEVICE = True
CONFIG = MvitConfig(vocab_size=VOCAB_SIZE)
EXTENT = (96, 128)
# Larger than the original's batch, so that every test of A and B is also one of the canvas.
CANVAS = (112, 136)
SIZES = np.array([EXTENT, EXTENT, (80, 100)])
CAPTIONS = ["all objects", "all visible objects and entities", "every dog"]
CAPTURED = ("backbone", "encoder_5", "decoder_5", "text_encoder", "resizer_layer_norm")


@pytest.fixture(scope="module")
def variables():
  return params_from_torch(StateDict(), CONFIG)


@pytest.fixture(scope="module")
def run(variables):
  """Predictions for A, B0 and B1, and what the modules in CAPTURED gave."""
  # Beyond the image, and beyond the batch, anything may stand.
  images = np.full((3, *CANVAS, 3), 7, np.float32)
  for image, key, size in zip(images, ("small", "b0", "b1"), SIZES):
    shape = (1,) * (key == "small") + (3, *size)
    values = standard_normal(f"input:mavl/{key}", shape).reshape(3, *size)
    image[: size[0], : size[1]] = values.transpose(1, 2, 0)
  tokens = pad_rows([TOKEN_IDS[caption] for caption in CAPTIONS])

  @jax.jit
  def apply(variables, images):
    return Mvit(CONFIG).apply(
      variables,
      images,
      *tokens,
      np.full((3, 2), EXTENT),
      SIZES,
      capture_intermediates=lambda module, _: module.name in CAPTURED,
      mutable=["intermediates"],
    )

  predictions, captured = apply(variables, images)
  outputs = {k: v["__call__"][0] for k, v in captured["intermediates"].items()}
  return predictions, outputs


def cells_of_the_batch(memory):
  """Rows [b, s, c] of the canvas that the original has too, in its order."""
  parts, start = [], 0
  for stride in STRIDES:
    (rows, columns), (h, w) = ([-(-n // stride) for n in size] for size in (CANVAS, EXTENT))
    level = memory[:, start : start + rows * columns].reshape(len(memory), rows, columns, -1)
    parts.append(level[:, :h, :w].reshape(len(memory), h * w, -1))
    start += rows * columns
  return np.concatenate(parts, 1)


def test_a_file_gives_the_original_boxes(variables):
  """Case C: one image at full resolution, encoded once for two queries; then the choice of RKD.

  First in this file, since it needs the most memory and compiled functions stay.
  """
  golden = arrays()
  mavl = Mavl(variables, lambda texts: pad_rows([TOKEN_IDS[text] for text in texts]), CONFIG)
  answers = mavl.infer(golden["C/image_uint8"], ["all objects", "every dog"])
  for (boxes, scores), case in zip(answers, ("C1", "C2"), strict=True):
    np.testing.assert_array_equal(boxes, golden[f"{case}/boxes_int"])
    np.testing.assert_allclose(scores, golden[f"{case}/scores"], atol=1e-5)
  boxes, scores = select_regions(answers)
  np.testing.assert_array_equal(boxes, golden["rkd/top5_boxes"])
  np.testing.assert_allclose(scores, golden["rkd/top5_scores"], atol=1e-5)


def test_the_backbone_equals_the_original(run):
  c5 = run[1]["backbone"][-1][:1, :3, :4].transpose(0, 3, 1, 2)
  assert_near(c5[:, ::32], arrays()["A/backbone_c5"])


def test_the_encoder_equals_the_original(run):
  memory = cells_of_the_batch(run[1]["encoder_5"])
  assert_near(memory[:1, :, ::2], arrays()["A/img_memory"])
  assert_near(memory[1:, ::3, ::4], arrays()["B/img_memory"])


def test_the_text_encoder_equals_the_original(run):
  words = run[1]["text_encoder"]
  assert_near(words[:1, :4], arrays()["A/roberta.last_hidden_state"])
  assert_near(words[1, :7, ::4], arrays()["B/roberta.last_hidden_state"][0])
  assert_near(words[2, :4, ::4], arrays()["B/roberta.last_hidden_state"][1, :4])
  resized = run[1]["resizer_layer_norm"][:1, :4].transpose(1, 0, 2)
  assert_near(resized, arrays()["A/text_memory_resized"])


def test_the_decoder_equals_the_original(run):
  objects = run[1]["decoder_5"]
  assert_near(objects[:1, ::2, ::2], arrays()["A/decoder_output"])
  assert_near(objects[1:, ::5, ::4], arrays()["B/decoder_output"])


def test_predictions_equal_the_original(run):
  predictions, golden = run[0], arrays()
  assert_near(predictions.logits[:1, ::2, ::2], golden["A/pred_logits"])
  assert_near(predictions.logits[1:, ::6, ::4], golden["B/pred_logits"])
  assert_near(predictions.boxes[:1], golden["A/pred_boxes"])
  assert_near(predictions.boxes[1:], golden["B/pred_boxes"])
  assert_near(predictions.scores[0], golden["A/scores"], 2e-5)
  assert_near(predictions.scores[1:], golden["B/scores"], 2e-5)
