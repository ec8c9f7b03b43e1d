from pathlib import Path

import jax
import numpy as np
import pytest

from rkd_jax.files import checksums
from rkd_jax.files.torch_writer import write_pth
from rkd_jax.frozen import mavl as infer
from rkd_jax.teachers.images import Options
from rkd_jax.teachers.mavl import MvitProposer
from rkd_jax.teachers.pipeline import describe
from tests import side_by_side
from tests.tiny_mvit import CONFIG, state_dict, tokenize

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 40, 52, 3), np.uint8)


@pytest.fixture(scope="module")
def proposer(tmp_path_factory):
  """A tiny model from a file; the tokenizer, whose vocabulary is no part of the project, is not."""
  folder = tmp_path_factory.mktemp("mavl")
  write_pth(folder / "mavl.pth", state_dict())
  files = [str(folder / name) for name in ("mavl.pth", "vocab.json", "merges.txt")]
  for path in files[1:]:
    Path(path).write_text(path)
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(infer, "Tokenizer", lambda *_: tokenize)
    yield MvitProposer(*files, top=4, short_side=64, config=CONFIG)


def test_proposals_are_the_regions_of_rkd(proposer):
  proposed = [proposer.propose(image) for image in IMAGES]
  for image, (boxes, scores) in zip(IMAGES, proposed):
    answers = proposer.mavl.infer(image, infer.RKD_QUERIES)
    expected_boxes, expected_scores = infer.select_regions(answers, top=4)
    np.testing.assert_array_equal(boxes, expected_boxes)
    np.testing.assert_array_equal(scores, expected_scores)
    assert boxes.dtype == scores.dtype == np.float32
    assert 0 < len(boxes) <= 4 and (np.diff(scores) <= 0).all()
  assert not np.array_equal(proposed[0][0], proposed[1][0])


def test_a_class_gets_the_best_box_of_its_query(proposer):
  proposed, (boxes, scores) = proposer.answer(IMAGES[0], ["red fox", "dog"])
  for name, box, score in zip(["red fox", "dog"], boxes, scores):
    found, found_scores = proposer.mavl.infer(IMAGES[0], [f"every {name}"])[0]
    assert score == pytest.approx(found_scores.max(), abs=1e-6)
    np.testing.assert_allclose(box, found[found_scores.argmax()], atol=1)
  np.testing.assert_array_equal(proposed[0], proposer.propose(IMAGES[0])[0])


def test_the_image_is_encoded_once_for_all_queries(proposer, monkeypatch):
  calls = []
  encode = proposer.mavl._encode_image
  monkeypatch.setattr(proposer.mavl, "_encode_image", lambda *x: calls.append(1) or encode(*x))
  proposer.answer(IMAGES[0], ["red fox", "dog", "cat"])
  assert len(calls) == 1


def test_calls_from_threads_use_several_devices(proposer, monkeypatch):
  """Texts are asked for in another order, and encoded on other devices."""
  names = [("red fox", "dog"), ("dog", "an old cat")]
  expected = [proposer.answer(*call) for call in zip(IMAGES, names)]
  proposer.mavl._texts.clear()
  used = side_by_side.at_once(monkeypatch, proposer.mavl, "_encode_image", 2)
  found = side_by_side.run(proposer.answer, IMAGES[::-1], names[::-1])
  assert used == set(jax.local_devices()[:2])
  jax.tree.map(np.testing.assert_array_equal, found[::-1], expected)


def test_the_settings_are_recorded(proposer):
  recorded = describe(proposer, Options(), "0", "quick_gelu")["proposer"]
  assert recorded["name"] == "MvitProposer"
  assert recorded["queries"] == infer.RKD_QUERIES
  assert recorded["config"]["queries"] == 12
  # Not where a file is but what is in it.
  assert recorded["checkpoint"] == checksums.of_file(proposer._files["checkpoint"])
  assert len({recorded[key] for key in ("checkpoint", "vocabulary", "merges")}) == 3


def test_other_arrays_than_an_rgb_image_are_refused(proposer):
  with pytest.raises(ValueError, match=r"uint8 image \[h, w, 3\]"):
    proposer.propose(IMAGES)


def test_of_the_answers_to_a_name_the_first_of_the_best_is_taken(proposer, monkeypatch):
  """A name that nothing answers to gets a score of 0, which no threshold lets pass."""
  named = np.float32([[0, 0, 1, 1], [2, 2, 3, 3], [4, 4, 5, 5]]), np.float32([0.25, 0.5, 0.5])
  nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
  asked = []

  def infer(image, queries):
    asked.extend(queries[4:])
    return [named] * 5 + [nothing]

  monkeypatch.setattr(proposer.mavl, "infer", infer)
  _, (boxes, scores) = proposer.answer(IMAGES[0], ["hot_dog", "cat"])
  assert asked == ["every hot_dog", "every cat"]
  assert boxes.tolist() == [[2, 2, 3, 3], [0, 0, 0, 0]] and scores.tolist() == [0.5, 0]
