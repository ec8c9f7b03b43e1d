"""Proposals of a trained detector, and of another run."""

import jax
import numpy as np
import pytest

from rkd_jax.frozen.detector import Detector
from rkd_jax.inputs.examples import collate, picture_example
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.models.detector import rcnn
from rkd_jax.ops.host import iou
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.runs.checkpoint import Checkpointer, CheckpointError
from rkd_jax.runs.config import restore_config, write_config
from rkd_jax.runs.state import TrainState
from rkd_jax.teachers.detector import DetectorProposer, StoredProposals
from rkd_jax.teachers.proposals import PseudoBoxes
from tests import side_by_side, tiny_coco

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 48, 64, 3), np.uint8)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
  """A run with random weights and no data set."""
  workdir = tmp_path_factory.mktemp("run")
  config = tiny_coco.get_config(str(workdir))
  write_config(str(workdir), config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: (0.1 * rng.normal(size=x.shape)).astype(x.dtype), rcnn.abstract_params(config)
  )
  checkpointer = Checkpointer(str(workdir))
  checkpointer.save(TrainState(step=np.array(0), params=params, model_state={}, opt_state=()))
  checkpointer.close()
  return workdir


def test_a_run_needs_no_config_file(workdir):
  expected = tiny_coco.get_config(str(workdir)).to_dict()
  assert restore_config(workdir).to_dict() == expected
  assert restore_config(workdir / "checkpoints" / "0").to_dict() == expected
  with pytest.raises(CheckpointError, match=r"config\.json is missing"):
    restore_config(workdir / "elsewhere")


def test_proposals_are_those_of_the_rpn_suppressed(workdir):
  proposer = DetectorProposer(workdir, top=6, nms_threshold=0.5)
  config = restore_config(workdir)
  spec = detector_specs(config)["eval"]
  detector = Detector.restore(config, str(workdir))
  for image in IMAGES:
    boxes, scores = proposer.propose(image)
    found = detector.propose(collate([picture_example(image, spec, "image")]))
    logits = found.logits[0][found.valid[0]]
    assert scores[0] == pytest.approx(1 / (1 + np.exp(-logits.max())), abs=1e-6)
    assert 1 < len(boxes) <= 6 and len(boxes) <= len(logits)
    assert (np.diff(scores) <= 0).all()
    overlaps = iou(boxes, boxes) - np.eye(len(boxes))
    assert overlaps.max() <= 0.5
    assert (boxes >= 0).all() and (boxes <= [64, 48, 64, 48]).all()
    # The network saw the image 43 pixels wide.
    assert boxes[:, 2].max() > 43


def test_calls_from_threads_use_several_devices(workdir, monkeypatch):
  proposer = DetectorProposer(workdir)
  expected = [proposer.propose(image) for image in IMAGES]
  used = side_by_side.at_once(monkeypatch, proposer._detector, "_propose", 2)
  found = side_by_side.run(proposer.propose, IMAGES)
  assert used == set(jax.local_devices()[:2])
  jax.tree.map(np.testing.assert_array_equal, found, expected)
  with pytest.raises(ValueError, match=r"uint8 image \[h, w, 3\]"):
    proposer.propose(IMAGES)


def test_a_detector_is_described_by_its_weights(workdir):
  first, second = DetectorProposer(workdir).describe(), DetectorProposer(workdir, top=9).describe()
  assert first["checkpoint"] == second["checkpoint"] and first != second


def test_another_run_is_recalled(tmp_path):
  rng = np.random.default_rng(0)
  record = {
    "regions/boxes": rng.random((3, 4), np.float32),
    "regions/scores": rng.random(3, np.float32),
    "regions/clip_embeddings": rng.random((3, 8), np.float32),
    "pseudo_boxes/boxes": rng.random((1, 4), np.float32),
    "pseudo_boxes/labels": np.array([5]),
    "pseudo_boxes/scores": np.array([0.5], np.float32),
  }
  with TeacherWriter(tmp_path, "train", 8, {"clip": "abc"}) as writer:
    writer.write(7, record)
  stored = StoredProposals(TeacherReader(tmp_path, "train"))
  (boxes, scores), pseudo = stored.recall(7)
  np.testing.assert_array_equal(boxes, record["regions/boxes"])
  np.testing.assert_array_equal(scores, record["regions/scores"])
  assert isinstance(pseudo, PseudoBoxes) and pseudo.labels.tolist() == [5]
  assert stored.describe()["results"] == {"clip": "abc"}
  with pytest.raises(ValueError, match="No teacher results for image 8"):
    stored.recall(8)
