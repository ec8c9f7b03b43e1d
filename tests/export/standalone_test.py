"""The program that is handed out with an export, against what it stands for."""

import json

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from rkd_jax.export import standalone
from rkd_jax.export.standalone import Exported, Words, paste, read_weights, resized_size
from rkd_jax.inputs import transforms
from rkd_jax.ops import masks
from rkd_jax.vocabulary import class_embeddings

ABOUT = {
  "format": standalone.FORMAT,
  "kind": "jax",
  "programs": [{"canvas": [40, 60]}, {"canvas": [60, 40]}],
  "short_side": 40,
  "max_side": 60,
  "max_words": 4,
  "embedding_dim": 8,
}
WORDS = Words(("cat", "dog"), np.ones((2, 8), np.float32))


@pytest.fixture
def exported(tmp_path, monkeypatch):
  """A model that finds the whole canvas as a dog, and keeps what it was given."""
  (tmp_path / "export.json").write_text(json.dumps(ABOUT))

  def opened(folder, program):
    def run(inputs):
      detector.given = inputs | {"canvas": program["canvas"]}
      height, width = program["canvas"]
      boxes = np.array([[[0, 0, width, height], [4, 4, 8, 6], [9, 9, 9, 9]]], np.float32)
      scores = np.array([[0.9, 0.2, 0.9]], np.float32)
      return {
        "boxes": boxes,
        "scores": scores,
        "classes": np.array([[1, 0, 0]], np.int32),
        "valid": np.ones((1, 3), bool),
        "masks": np.ones((1, 3, 2, 2), np.float32),
      }

    return run

  monkeypatch.setattr(standalone, "_jax", opened)
  detector = Exported(tmp_path)
  return detector


@pytest.mark.parametrize("size", [(480, 640), (640, 480), (7, 1000), (33, 50), (800, 1333), (1, 1)])
def test_sizes_are_those_of_the_input_pipeline(size):
  assert resized_size(*size, 800, 1333) == transforms.resized_size(size, 800, 1333)


@pytest.mark.parametrize("box", [(3, 4, 20, 11), (-6, -2, 9, 30), (0.4, 0.7, 1.2, 2.1)])
def test_masks_are_pasted_as_everywhere(box):
  mask = np.random.default_rng(0).uniform(size=(5, 7)).astype(np.float32)
  box = np.array(box, np.float32)
  expected = masks.paste(mask, box, 24, 30)
  np.testing.assert_allclose(paste(mask, box, 24, 30), expected, atol=1e-5)


def test_weights_are_read_as_they_were_written(tmp_path):
  arrays = {
    "a/kernel": np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32),
    "b": np.array(2.5, np.float32),
    "count": np.arange(3, dtype=np.int32),
  }
  save_file(arrays, tmp_path / "weights.safetensors")
  found = read_weights(tmp_path / "weights.safetensors")
  assert found.keys() == arrays.keys()
  for name, array in arrays.items():
    assert found[name].dtype == array.dtype and found[name].shape == array.shape
    np.testing.assert_array_equal(found[name], array)


def test_images_are_resized_padded_and_boxes_brought_back(exported, tmp_path):
  pixels = np.random.default_rng(0).integers(0, 256, (100, 80, 3)).astype(np.uint8)
  found = exported(Image.fromarray(pixels), WORDS)
  view = transforms.View((100, 80), transforms.resized_size((100, 80), 40, 60))
  assert exported.given["sizes"].tolist() == [[50, 40]] and exported.given["canvas"] == [60, 40]
  np.testing.assert_array_equal(exported.given["images"][0, :50], view.image(pixels))
  assert not exported.given["images"][0, 50:].any()
  assert exported.given["class_valid"].tolist() == [True, True, False, False]
  # The canvas of 60 rows is 120 of the image, which has 100.
  np.testing.assert_allclose(found["boxes"], [[0, 0, 80, 100]])
  assert found["labels"] == ["dog"] and found["masks"].shape == (1, 2, 2)
  assert exported(Image.fromarray(pixels), WORDS, 0.1)["labels"] == ["dog", "cat"]


def test_files_are_turned_upright(exported, tmp_path):
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by 90 degrees
  Image.new("L", (60, 40)).save(tmp_path / "turned.jpg", exif=exif)
  exported(tmp_path / "turned.jpg", WORDS)
  assert exported.given["sizes"].tolist() == [[60, 40]]


def test_its_own_words_come_with_it(exported, tmp_path):
  class_embeddings.save(tmp_path / "class_embeddings.npz", ["owl"], "a {}", np.ones((1, 8)))
  with pytest.raises(ValueError, match=r"has no class_embeddings.npz"):
    exported(Image.new("RGB", (9, 9)))
  again = Exported(tmp_path)
  assert again.words is not None and again.words.names == ("owl",)
  assert again.words.embeddings.dtype == np.float32


@pytest.mark.parametrize("shape", [(2, 9), (5, 8), (0, 8), (8,)])
def test_embeddings_that_do_not_fit_are_refused(exported, shape):
  words = Words(("a",), np.ones(shape, np.float32))
  with pytest.raises(ValueError, match=r"expected \[words, 8\] of at most 4 words"):
    exported(Image.new("RGB", (9, 9)), words)


def test_a_folder_without_an_export_is_refused(tmp_path):
  with pytest.raises(ValueError, match=r"has no export\.json"):
    Exported(tmp_path)


def test_the_command_says_in_a_sentence_what_is_wrong(tmp_path, monkeypatch):
  monkeypatch.setattr(standalone, "__file__", str(tmp_path / "run.py"))
  with pytest.raises(SystemExit, match=r"has no export\.json"):
    standalone.main(["image.jpg"])
