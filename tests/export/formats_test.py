"""Exports of small detectors: what they hold, and that they compute what the detector does."""

import json
import os
import subprocess
import sys

import jax
import narrow_detectors
import numpy as np
import pytest
from PIL import Image

from rkd_jax.export import formats, programs
from rkd_jax.export.formats import export
from rkd_jax.export.standalone import Exported

SINGLE_DEVICE = True
MISSING = {"onnx": ("onnx", "onnxruntime"), "savedmodel": ("tensorflow",), "jax": ()}
# Runs where nothing of this package can be imported.
ALONE = """
import sys
import numpy as np
sys.path.insert(0, sys.argv[1])
from run import Exported
detector = Exported(sys.argv[1])
with np.load(sys.argv[2]) as file:
  inputs = dict(file)
np.savez(sys.argv[3], **detector.program(0)(inputs))
assert not [name for name in sys.modules if name.startswith("rkd_jax")]
"""


@pytest.fixture(scope="module", params=narrow_detectors.KINDS)
def detector(request):
  return narrow_detectors.make(request.param)


@pytest.fixture(scope="module")
def image():
  pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3))
  return Image.fromarray(pixels.astype(np.uint8))


def inputs(detector, count=1):
  rng = np.random.default_rng(2)
  height, width = programs.canvases(detector)[0]
  rows = programs.words(detector.words.stored)
  return {
    "images": rng.integers(0, 256, (count, height, width, 3)).astype(np.uint8),
    "sizes": np.array([[height, width - 8 * i] for i in range(count)], np.int32),
    "class_embeddings": np.pad(detector.words.stored.embeddings, ((0, rows - 3), (0, 0))),
    "class_valid": np.arange(rows) < 3,
  }


@pytest.mark.door
def test_jax_alone_computes_the_same_bits(detector, tmp_path):
  """In a process without this package, and with more images than one."""
  export(detector, "jax", tmp_path / "out")
  given = inputs(detector, count=2)
  np.savez(tmp_path / "inputs.npz", **given)
  arguments = [str(tmp_path / name) for name in ("out", "inputs.npz", "found.npz")]
  environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  subprocess.run(
    [sys.executable, "-c", ALONE, *arguments], cwd=tmp_path, env=environment, check=True
  )
  found = np.load(tmp_path / "found.npz")
  assert set(found) == set(programs.outputs(detector.config))
  canvas, rows = given["images"].shape[1:3], len(given["class_valid"])
  program = jax.jit(formats.exported(detector, canvas, rows).call)
  expected = program(programs.params(detector), *given.values())
  for name in found:
    np.testing.assert_array_equal(found[name], expected[name])
  assert found["valid"].sum() > 4 and len(np.unique(found["classes"])) > 1


@pytest.mark.door
@pytest.mark.parametrize("kind", formats.KINDS)
def test_every_format_finds_what_the_detector_finds(detector, image, kind, tmp_path):
  for package in MISSING[kind]:
    pytest.importorskip(package, reason=f"{package} is not installed")
  export(detector, kind, tmp_path / "out")
  exported = Exported(tmp_path / "out")
  found, expected = exported(image, min_score=0.0), detector(image, min_score=0.0)
  # As for the originals: a hundredth of a pixel.
  np.testing.assert_allclose(found["boxes"], expected.boxes, atol=0.01)
  np.testing.assert_allclose(found["scores"], expected.scores, atol=1e-5)
  assert found["classes"].tolist() == expected.classes.tolist() and len(found["boxes"]) > 3
  assert found["labels"] == [expected.names[i] for i in expected.classes]
  # A word alone, which the program was not made for.
  words = exported.words._replace(names=("dog",), embeddings=exported.words.embeddings[1:2])
  np.testing.assert_allclose(
    exported(image, words, 0.0)["boxes"], detector(image, "dog", min_score=0.0).boxes, atol=0.01
  )


@pytest.fixture
def written(detector, monkeypatch):
  """`export` in a format that is written in no time."""

  def write(detector, folder, rows):
    (folder / "model").write_text(f"{rows} rows")
    return [{"file": "model", "canvas": (64, 96)}]

  monkeypatch.setitem(formats.KINDS, "jax", write)
  return lambda output, **settings: export(detector, "jax", output, **settings)


def test_the_folder_says_what_it_holds(written, detector, tmp_path):
  written(tmp_path / "out")
  about = json.loads((tmp_path / "out" / "export.json").read_text())
  assert about["programs"] == [{"file": "model", "canvas": [64, 96]}]
  assert (about["short_side"], about["max_side"], about["max_words"]) == (64, 96, 32)
  assert ("masks" in about["outputs"]) == bool(detector.config.model.mask_head.layers)
  text = (tmp_path / "out" / "README.md").read_text()
  assert "3 words: cat, dog, red fox." in text and "float32 [32, 16]" in text
  assert ("`masks`" in text) == ("masks" in about["outputs"])
  assert Exported(tmp_path / "out").words.names == narrow_detectors.NAMES
  assert sorted(file.name for file in tmp_path.iterdir()) == ["out"]


def test_an_export_is_replaced_by_another(written, detector, tmp_path):
  written(tmp_path / "out")
  written(tmp_path / "out", vocabulary=detector.vocabulary("dog"), max_words=7)
  assert Exported(tmp_path / "out").words.names == ("dog",)
  assert (tmp_path / "out" / "model").read_text() == "7 rows"


def test_other_files_are_left_alone(written, tmp_path):
  (tmp_path / "mine.txt").write_text("mine")
  with pytest.raises(ValueError, match=r"has other files; give a new folder"):
    written(tmp_path)
  with pytest.raises(ValueError, match=r"mine\.txt is a file"):
    written(tmp_path / "mine.txt")
  assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_an_export_that_fails_leaves_the_old_one(written, tmp_path, monkeypatch):
  written(tmp_path / "out")

  def write(detector, folder, rows):
    (folder / "model").write_text("half")
    raise OSError("No space left on device")

  monkeypatch.setitem(formats.KINDS, "jax", write)
  for place in ("out", "new"):
    with pytest.raises(OSError, match=r"No space"):
      written(tmp_path / place)
  assert [file.name for file in tmp_path.iterdir()] == ["out"]
  assert (tmp_path / "out" / "model").read_text() == "32 rows"


def test_a_format_has_to_be_known_and_its_packages_installed(detector, tmp_path, monkeypatch):
  with pytest.raises(ValueError, match=r"no format 'tflite'; there are: jax, onnx, savedmodel"):
    export(detector, "tflite", tmp_path / "out")
  monkeypatch.setitem(sys.modules, "tensorflow", None)
  with pytest.raises(ImportError, match=r"pip install 'rkd_jax\[tf\]'"):
    export(detector, "savedmodel", tmp_path / "out")
  monkeypatch.setitem(sys.modules, "onnx", None)
  with pytest.raises(ImportError, match=r"pip install 'rkd_jax\[onnx\]'"):
    export(detector, "onnx", tmp_path / "out")
  assert not list(tmp_path.iterdir())


def test_a_detector_whose_scores_are_fused_is_refused(tmp_path):
  detector = narrow_detectors.make("c4")
  with detector.config.unlocked():
    detector.config.model.test.fusion.kind = "crops"
  with pytest.raises(ValueError, match=r"fusion\.kind is 'crops': exports have the detector's own"):
    export(detector, "jax", tmp_path / "out")
  assert not list(tmp_path.iterdir())
