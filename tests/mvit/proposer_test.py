import dataclasses
import pickle

import numpy as np
import pytest

from rkd_jax.convert.torch_files import write_pth
from rkd_jax.mvit import infer
from rkd_jax.mvit.proposer import MvitProposer
from rkd_jax.precompute import Options, describe
from tests.tiny_mvit import CONFIG, state_dict, tokenize

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 40, 52, 3), np.uint8)


@pytest.fixture
def proposer(tmp_path, monkeypatch):
  """A tiny model from a file; the tokenizer, whose vocabulary is no part of the project, is not."""
  write_pth(tmp_path / "mavl.pth", state_dict())
  monkeypatch.setattr(infer, "Tokenizer", lambda *_: tokenize)
  return MvitProposer(
    str(tmp_path / "mavl.pth"), "vocab.json", "merges.txt", top=4, short_side=64, config=CONFIG
  )


def test_proposals_are_the_regions_of_rkd(proposer):
  proposed = proposer.propose(IMAGES)
  assert len(proposed) == 2
  for image, (boxes, scores) in zip(IMAGES, proposed):
    answers = proposer.mavl.infer(image, infer.RKD_QUERIES)
    expected_boxes, expected_scores = infer.select_regions(answers, top=4)
    np.testing.assert_array_equal(boxes, expected_boxes)
    np.testing.assert_array_equal(scores, expected_scores)
    assert boxes.dtype == scores.dtype == np.float32
    assert 0 < len(boxes) <= 4 and (np.diff(scores) <= 0).all()
  assert not np.array_equal(proposed[0][0], proposed[1][0])


def test_the_model_is_loaded_once_and_does_not_travel(proposer):
  assert proposer.mavl is dataclasses.replace(proposer, top=5).mavl
  assert len(pickle.dumps(proposer)) < 2000
  assert pickle.loads(pickle.dumps(proposer)) == proposer


def test_the_settings_are_recorded(proposer):
  recorded = describe(proposer, Options(), "0")["proposer"]
  assert recorded["name"] == "MvitProposer"
  assert recorded["queries"] == infer.RKD_QUERIES
  assert recorded["config"]["queries"] == 12


def test_other_arrays_than_batches_of_rgb_are_refused(proposer):
  with pytest.raises(ValueError, match=r"uint8 images \[n, h, w, 3\]"):
    proposer.propose(IMAGES[0])
