"""A detector whose scores are fused with CLIP's, and with those of its own projection."""

import dataclasses

import jax
import numpy as np
import pytest
import tiny
import tiny_clip

from rkd_jax.frozen.clip import RegionEncoder, load_clip
from rkd_jax.frozen.detector import Detector
from rkd_jax.frozen.fusion import Fusion
from rkd_jax.frozen.regions import crop_regions
from rkd_jax.models.detector import rcnn
from rkd_jax.ops.host import unit
from rkd_jax.structures import Batch

CLASSES, WIDTH = 5, 8
ROWS = np.random.default_rng(3).normal(size=(CLASSES, WIDTH)).astype(np.float32)
TEMPERATURE = 4.0


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory):
  return str(tiny_clip.write_run(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def config(clip_run):
  config = tiny.get_config("unused,lvis")
  model = config.model
  model.classifier.embedding_dim = WIDTH
  model.classifier.temperature, model.classifier.bias = 2.0, 0.0
  model.test.score_threshold = 0.0
  model.test.fusion.update(clip=clip_run, temperature=TEMPERATURE, crops=6)
  return config


@pytest.fixture(scope="module")
def params(config):
  shapes = rcnn.abstract_params(config)
  rng = np.random.default_rng(0)
  return jax.tree.map(lambda x: rng.normal(0, 0.1, x.shape).astype(x.dtype), shapes)


@pytest.fixture(scope="module")
def batch():
  images = np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3), np.uint8)
  sizes = np.array([[64, 64], [48, 64]], np.int32)
  ids = np.arange(2, dtype=np.int32)
  return Batch(images, sizes, sizes, image_ids=ids, valid=np.array([True, True]))


def _with(config, params, **fusion):
  config = config.copy_and_resolve_references()
  config.model.test.fusion.update(**fusion)
  return Detector(config, params)


@pytest.fixture(scope="module")
def detectors(config, params):
  """Compiled once: exponents are arguments of the programs."""
  return {kind: _with(config, params, kind=kind) for kind in ("", "projection", "crops")}


@pytest.fixture(scope="module")
def plain(detectors, batch):
  return detectors[""].detect(batch, ROWS)


def _assert_equal(got, want, rtol=1e-5):
  for field in dataclasses.fields(want):
    np.testing.assert_allclose(getattr(got, field.name), getattr(want, field.name), rtol, 1e-6)


@pytest.mark.parametrize("kind", ["projection", "crops"])
def test_an_exponent_of_zero_changes_nothing(detectors, plain, batch, kind):
  assert plain.valid.any() and plain.masks is not None
  detectors[kind].config.model.test.fusion.update(base=0.5, novel=0.0)
  _assert_equal(detectors[kind].detect(batch, ROWS), plain)


def test_an_exponent_of_one_leaves_clip_s_word(detectors, batch, clip_run):
  detector = detectors["crops"]
  detector.config.model.test.fusion.update(base=0.0, novel=1.0)
  found = detector.detect(batch, ROWS)
  scored = detector._score(detector.variables, batch, ROWS, None)
  clip = load_clip(clip_run)
  encoder = RegionEncoder(clip)
  for i in range(2):
    height, width = batch.sizes[i]
    real = np.array(scored.crop_valid[i])
    boxes = np.array(scored.crops[i])[real]
    crops = crop_regions(batch.images[i, :height, :width], boxes, clip.image_size)
    logits = TEMPERATURE * unit(encoder.embed(crops)) @ unit(ROWS).T
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    crop = np.array(scored.crop_of[i])[found.rois[i]]
    kept = found.valid[i] & (crop >= 0)
    assert kept.sum() > 1
    want = expected[crop[kept], found.classes[i][kept]]
    np.testing.assert_allclose(found.scores[i][kept], want, rtol=1e-4)


@pytest.mark.parametrize("kind", ["projection", "crops"])
def test_rows_that_are_padding_change_nothing(detectors, batch, kind):
  detectors[kind].config.model.test.fusion.update(base=0.2, novel=0.5)
  padded = np.pad(ROWS, [(0, 3), (0, 0)], constant_values=1)
  seen = np.array([True, False, True, False, False])
  found = detectors[kind].detect(batch, padded, np.arange(8) < CLASSES, seen)
  _assert_equal(found, detectors[kind].detect(batch, ROWS, seen=seen), rtol=1e-4)


def test_classes_with_boxes_have_an_exponent_of_their_own(detectors):
  detector = detectors["crops"]
  detector.config.model.test.fusion.update(base=0.25, novel=0.75)
  fusion = Fusion(detector.config)
  assert fusion.exponents(4, np.array([True, False])).tolist() == [0.25, 0.75, 0.75, 0.75]
  assert fusion.exponents(2, None).tolist() == [0.75, 0.75]


@pytest.mark.parametrize(
  "changes, message",
  [
    (dict(kind="crop"), r"fusion\.kind is 'crop'; expected one of projection, crops"),
    (dict(kind="crops", base=1.5), r"fusion\.base is 1\.5; expected an exponent from 0 to 1"),
    (dict(kind="projection", novel=-0.1), r"fusion\.novel is -0\.1"),
    (dict(kind="crops", clip=""), r"fusion\.clip is '', which is not there: give the CLIP"),
    (dict(kind="crops", clip="no/where"), r"'no/where', which is not there"),
    (dict(kind="crops", crops=0), r"crops=0"),
  ],
)
def test_what_cannot_be_is_said_before_any_image(config, params, changes, message):
  with pytest.raises(ValueError, match=message):
    _with(config, params, **changes)


def test_a_detector_without_weight_transfer_has_no_second_projection(config):
  config = config.copy_and_resolve_references()
  config.model.classifier.weight_transfer = None
  config.model.test.fusion.kind = "projection"
  with pytest.raises(ValueError, match="without weight transfer the distilled projection is the"):
    Fusion(config)


def test_a_clip_of_another_width_is_refused(detectors, batch):
  config = detectors["crops"].config.copy_and_resolve_references()
  config.model.classifier.embedding_dim = 9
  boxes, valid = np.ones((2, 1, 4), np.float32), np.ones((2, 1), bool)
  with pytest.raises(ValueError, match="are 8 wide, the detector's 9"):
    Fusion(config).crop_scores(batch, boxes, valid, ROWS)
