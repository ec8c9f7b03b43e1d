"""The Python interface on a detector of random weights."""

import jax
import numpy as np
import pytest
import tiny_clip
from PIL import Image

import rkd_jax
from rkd_jax.frozen.clip import load_clip
from rkd_jax.models.detector import rcnn
from rkd_jax.records.decoding import BadImageError
from rkd_jax.runs.checkpoint import Checkpointer, CheckpointError
from rkd_jax.runs.config import write_config
from rkd_jax.runs.state import TrainState
from rkd_jax.vocabulary import class_embeddings
from tests import tiny_coco

pytestmark = pytest.mark.door
WORDS = ("red", "dog", "cat", "one", "photo", "of", "a")
TEXTS = tuple(f"a photo of a {word}" for word in WORDS)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Records, class embeddings and a CLIP that made them, and a run of random weights."""
  root = tmp_path_factory.mktemp("interface")
  tiny_coco.build_data(root)
  tiny_clip.write_run(root / "clip", ("a photo of a cat", "a photo of a dog red fox", *TEXTS))
  rows = class_embeddings.embed_classes(load_clip(root / "clip"), tiny_coco.NAMES)
  file = root / "class_embeddings.npz"
  class_embeddings.save(file, tiny_coco.NAMES, class_embeddings.TEMPLATE, rows, clip="clip")
  config = tiny_coco.get_config(str(root))
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(leaf.dtype), rcnn.abstract_params(config)
  )
  write_config(root / "run", config)
  checkpointer = Checkpointer(root / "run")
  checkpointer.save(TrainState(np.int32(3), params, {}, ()))
  checkpointer.close()
  return root


@pytest.fixture(scope="module")
def detector(root):
  return rkd_jax.load(root / "run")


@pytest.fixture(scope="module")
def image():
  return np.random.default_rng(1).integers(0, 256, (40, 60, 3), np.uint8)


def boxes(result):
  return [(r["category"], *r["bbox"], r["score"]) for r in result.to_coco()]


def test_three_lines(root, detector, image, tmp_path):
  result = detector(image, ["red", "dog"], min_score=0)
  assert len(result) > 0 and set(result.labels) <= {"red", "dog"} and result.size == (40, 60)
  assert (result.boxes >= 0).all() and (result.boxes <= [60, 40, 60, 40]).all()
  assert (np.diff(result.scores) <= 0).all()
  assert detector.base == set(tiny_coco.NAMES[:-1])
  result.draw().save(tmp_path / "boxes.png")


def test_all_kinds_of_images_are_one(detector, image, tmp_path):
  Image.fromarray(image).save(tmp_path / "image.png")
  expected = boxes(detector(image, "dog", min_score=0))
  for given in (Image.fromarray(image), tmp_path / "image.png", str(tmp_path / "image.png")):
    assert boxes(detector(given, "dog", min_score=0)) == expected
  found = detector([image, tmp_path / "image.png", image], "dog", min_score=0)
  assert len(found) == 3
  for result in found:
    np.testing.assert_allclose([b[1:] for b in boxes(result)], [b[1:] for b in expected], rtol=1e-4)


def test_its_own_vocabulary_is_the_default(detector, image):
  own = detector(image, min_score=0)
  assert own.names == tiny_coco.NAMES
  assert boxes(own) == boxes(detector(image, detector.vocabulary(), min_score=0))
  assert boxes(own) == boxes(detector(image, list(tiny_coco.NAMES), min_score=0))


def test_words_are_not_compiled_for(detector, image):
  """Twenty vocabularies of 1 to 200 words."""
  names, compiled = [], []
  listen = lambda event, seconds, fun_name="", **_: compiled.append((event, fun_name))  # noqa: E731
  jax.monitoring.register_event_duration_secs_listener(listen)
  try:
    for count in np.linspace(1, 200, 20).astype(int):
      rows = np.random.default_rng(count).normal(size=(count, 8)).astype(np.float32)
      names = tuple(f"word {i}" for i in range(count))
      detector(image, class_embeddings.ClassEmbeddings(rows, names, None))
  finally:
    jax.monitoring.unregister_event_duration_listener(listen)
  programs = [n for e, n in compiled if e == "/jax/core/compile/backend_compile_duration"]
  assert 1 <= len(programs) <= 4, programs


@pytest.mark.parametrize("text_tower", [True, False])
def test_a_folder_to_be_published(root, detector, image, tmp_path, text_tower):
  rkd_jax.save_pretrained(detector, tmp_path / "out", text_tower)
  again = rkd_jax.load(tmp_path / "out")
  assert boxes(again(image, min_score=0)) == boxes(detector(image, min_score=0))
  assert again.base == detector.base and again.network.step == 3
  assert again.words.has_clip == text_tower
  if text_tower:
    assert boxes(again(image, "red", min_score=0)) == boxes(detector(image, "red", min_score=0))
  else:
    with pytest.raises(ValueError, match=r"'red' is none of the 3 words.*give the CLIP"):
      again(image, "red")
  # Nothing of this machine goes along.
  assert str(root) not in (tmp_path / "out" / "config.json").read_text()
  rkd_jax.save_pretrained(detector, tmp_path / "out", text_tower)  # once more, over it
  (tmp_path / "full").mkdir()
  (tmp_path / "full" / "thesis.txt").touch()
  with pytest.raises(ValueError, match="has other files"):
    rkd_jax.save_pretrained(detector, tmp_path / "full")


@pytest.mark.parametrize(
  "damage, message",
  [
    (lambda folder: (folder / "config.json").write_text("{"), r"config\.json"),
    (lambda folder: (folder / "config.json").write_text('{"format": "other"}'), "its format is"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"0" * 99), r"model\.safetensors"),
    (lambda folder: (folder / "text_tower.json").unlink(), r"text_tower\.json"),
  ],
)
def test_a_damaged_folder(detector, image, tmp_path, damage, message):
  rkd_jax.save_pretrained(detector, tmp_path / "out")
  damage(tmp_path / "out")
  with pytest.raises((ValueError, OSError), match=message):
    rkd_jax.load(tmp_path / "out")(image, "red")


def test_places_without_a_detector(root, tmp_path):
  with pytest.raises(CheckpointError, match=r"config\.json is missing"):
    rkd_jax.load(tmp_path)
  with pytest.raises(FileNotFoundError, match="`rkd-jax download coco-ovd-rkd` fetches it"):
    rkd_jax.load(tmp_path / "coco_ovd_rkd.pth")
  (tmp_path / "weights.pth").write_bytes(b"")
  with pytest.raises(ValueError, match="give its config"):
    rkd_jax.load(tmp_path / "weights.pth")
  with pytest.raises(ValueError, match=r"no file .*gone\.npz"):
    rkd_jax.load(root / "run", class_embeddings=tmp_path / "gone.npz")
  class_embeddings.save(tmp_path / "wide.npz", ["cat"], "{}", np.ones((1, 9), np.float32))
  with pytest.raises(ValueError, match="9 wide, the detector's"):
    rkd_jax.load(root / "run", class_embeddings=tmp_path / "wide.npz")
  with pytest.raises(CheckpointError, match="No checkpoint"):
    (tmp_path / "empty").mkdir()
    write_config(tmp_path / "empty", tiny_coco.get_config(str(root)))
    rkd_jax.load(tmp_path / "empty")


def test_a_run_whose_folders_were_moved(root):
  """Its config names the class embeddings where they were."""
  moved = root.rename(root.with_name("moved"))
  try:
    again = rkd_jax.load(moved / "run")
    assert again.words.stored.names == tiny_coco.NAMES and again.words.has_clip
    assert again.base == set(tiny_coco.NAMES[:-1])
  finally:
    moved.rename(root)


@pytest.mark.parametrize(
  "given, message",
  [
    (np.zeros((4, 4, 3), np.float32), r"image 0 is an array of float32 \(4, 4, 3\)"),
    (np.zeros((4, 4, 4), np.uint8), r"uint8 \(4, 4, 4\)"),
    (np.zeros((0, 4, 3), np.uint8), "no pixels"),
    ("missing.png", "Cannot read missing.png"),
  ],
)
def test_images_that_are_none(detector, given, message):
  with pytest.raises((ValueError, BadImageError), match=message):
    detector(given, "dog")


def test_strange_images(detector, tmp_path):
  animation = [Image.new("RGB", (20, 30), colour) for colour in ("red", "blue")]
  animation[0].save(tmp_path / "two.gif", save_all=True, append_images=animation[1:])
  turned = Image.new("RGB", (30, 20))
  exif = turned.getexif()
  exif[274] = 6
  turned.save(tmp_path / "turned.jpg", exif=exif)
  Image.fromarray(np.full((20, 30), 65535, np.uint16)).save(tmp_path / "deep.png")
  Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
  (tmp_path / "text.jpg").write_text("not a picture")
  sizes = {"two.gif": (30, 20), "turned.jpg": (30, 20), "deep.png": (20, 30), "dot.png": (1, 1)}
  for name, size in sizes.items():
    result = detector(tmp_path / name, "dog", min_score=0)
    assert (
      result.size == size and result.draw().size[0] * size[0] == result.draw().size[1] * size[1]
    )
  assert np.asarray(detector(tmp_path / "deep.png", "dog").image).min() == 255
  with pytest.raises(BadImageError, match=r"Cannot decode .*text\.jpg"):
    detector(tmp_path / "text.jpg", "dog")
  with pytest.raises(BadImageError, match="20000 x 20000 is 400,000,000 pixels"):
    detector(Image.new("1", (20_000, 20_000)), "dog")
