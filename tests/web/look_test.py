"""Limits, turns and kept results, with runs that compute nothing."""

import json
import threading

import numpy as np
import pytest

pytest.importorskip("gradio", reason="Gradio is the extra `web`")

from PIL import Image
from pycocotools.coco import COCO

from rkd_jax.web import look
from tests import made_looker as made

pytestmark = pytest.mark.door


@pytest.fixture
def looker():
  return made.looker()


def test_another_threshold_computes_nothing(looker):
  image = made.encoded()
  found = looker.look("run0", image, "a.png", "cat, dog")
  again = looker.look("run0", image, "a.png", ["cat", "dog"])
  assert again is found and looker.computed == 1
  assert len(found.result) == 3 and len(found.above(0.3).result) == 2
  few, many = (np.asarray(found.above(score).draw()) for score in (0.8, 0.3))
  assert (few != many).any()
  looker.look("run0", image, "a.png", "cat")
  looker.look("run0", made.encoded(size=(41, 30)), "a.png", "cat")
  assert looker.computed == 3


def test_results_are_not_kept_for_ever(looker):
  images = [made.encoded(size=(30 + number, 30)) for number in range(20)]
  for image in (*images, images[-1], images[0]):
    looker.look("run0", image, "a.png", "cat")
  assert looker.computed == 21


def test_the_picture_is_reduced_and_the_boxes_are_of_the_image(looker):
  found = looker.look("run0", made.encoded(size=(3200, 1600)), "a.png", "cat")
  assert found.picture.shape == (800, 1600, 3) and found.draw().size == (1600, 800)
  assert found.result.size == (1600, 3200)
  assert found.result.boxes[0].tolist() == [0, 0, 1600, 800] and found.result.image is None


def test_an_answer_is_what_coco_reads(looker, tmp_path):
  found = looker.look("run0", made.encoded(), "a.png", "cat, red car").above(0.3)
  answer = look.answer("run0", found.result).model_dump(exclude_none=True)
  assert answer["run"] == "run0"
  assert answer["images"] == [{"id": 1, "file_name": "a.png", "height": 30, "width": 40}]
  assert answer["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "red car"}]
  plain = [
    {key: row[key] for key in ("image_id", "category_id", "category", "bbox", "score")}
    for row in json.loads(json.dumps(answer["annotations"]))
  ]
  assert plain == json.loads(json.dumps(found.result.to_coco(1)))
  (tmp_path / "boxes.json").write_text(json.dumps(answer))
  coco = COCO(tmp_path / "boxes.json")
  assert [coco.anns[own]["area"] for own in (1, 2)] == [300.0, 675.0]
  assert len(coco.loadRes(answer["annotations"]).anns) == 2


@pytest.mark.parametrize(
  ("image", "said"),
  [
    (b"This is no picture.", "Cannot decode a.jpg (19 bytes): no known format"),
    (b"", "the file is empty"),
    (made.huge_header(), "a.jpg is too large: "),
    (made.encoded()[:60], "Cannot decode a.jpg"),
    (made.encoded(Image.new("F", (9, 9)), "TIFF"), "no fixed white"),
  ],
)
def test_a_bad_image_is_a_sentence(looker, image, said):
  with pytest.raises(ValueError) as error:
    looker.look("run0", image, "a.jpg", "cat")
  assert said in str(error.value) and "skip_bad" not in str(error.value)
  assert looker.computed == 0


@pytest.mark.parametrize(
  ("image", "size"),
  [
    (made.encoded(size=(1, 1)), (1, 1)),
    (made.rotated_jpeg(), (40, 30)),
    (made.animated_gif(), (30, 40)),
    (made.deep_png(), (30, 40)),
  ],
)
def test_an_unusual_image_is_one(looker, image, size):
  found = looker.look("run0", image, "a", "cat")
  assert found.result.size == size and found.draw().width > 0


def test_limits_are_those_that_were_given():
  looker = made.looker(max_pixels=100, max_megabytes=0.001)
  with pytest.raises(ValueError, match="40 x 30 is 1,200 pixels; --max_pixels is 100"):
    looker.look("run0", made.encoded(), "a.png", "cat")
  with pytest.raises(ValueError, match=r"a.png is larger than 0.001 MB: make it smaller"):
    looker.look("run0", bytes(1001), "a.png", "cat")


@pytest.mark.parametrize(
  ("words", "said"),
  [
    ("", "There is no word: say what to look for"),
    (" , ", "There is no word"),
    ([], "There is no word"),
    ("cat, cat", "'cat' more than once"),
    ("kat", "'kat' is none of the 3 words .*; the nearest are 'cat'. Use it."),
    (",".join(map(str, range(1001))), "There are 1,001 words; at most 1,000"),
    ("word " * 5000, "has 24,999 characters"),
  ],
)
def test_words_that_cannot_be_looked_for_are_a_sentence(looker, words, said):
  with pytest.raises(ValueError, match=said):
    looker.look("run0", made.encoded(), "a.png", words)


def test_a_strangers_words_name_no_file(looker, tmp_path):
  file = tmp_path / "secret"
  file.write_text("cat")
  with pytest.raises(ValueError, match=f"'@{file}' is none of the 3 words"):
    looker.look("run0", made.encoded(), "a.png", f"@{file}")


def test_no_words_are_the_runs_own(looker):
  assert looker.look("run0", made.encoded(), "a.png", None).result.names == made.NAMES
  bare = made.looker(made.detector(None, clip=True))
  with pytest.raises(ValueError, match="There is no word"):
    bare.look("run0", made.encoded(), "a.png", None)


def test_a_word_that_the_clip_does_not_know_is_a_sentence():
  looker = made.looker(made.detector(clip=True))
  assert looker.look("run0", made.encoded(), "a.png", "bird").result.names == ("bird",)
  with pytest.raises(ValueError, match="'zebra' is not in this model's vocabulary"):
    looker.look("run0", made.encoded(), "a.png", "bird, zebra")


def test_runs_without_a_clip_offer_the_words_that_all_of_them_know():
  closed, other = made.detector(), made.detector(("dog", "cat", "bird"))
  assert made.looker(closed, other).closed_words() == ("cat", "dog")
  assert made.looker(closed, made.detector(clip=True)).closed_words() == made.NAMES
  assert made.looker(made.detector(clip=True)).closed_words() is None


def test_requests_take_turns_and_too_many_are_refused(looker, monkeypatch):
  monkeypatch.setattr(look, "MOST_WAITING", 4)
  looker = made.looker(looker.detectors["run0"])
  network = looker.detectors["run0"].network
  entered, go = threading.Event(), threading.Event()
  network.wait = lambda: (entered.set(), go.wait(30))
  said = []

  def ask(number):
    try:
      looker.look("run0", made.encoded(size=(30 + number, 30)), "a.png", "cat")
      said.append("found")
    except look.TooManyError as error:
      said.append(str(error))

  threads = [threading.Thread(target=ask, args=(number,)) for number in range(10)]
  for thread in threads:
    thread.start()
  assert entered.wait(30)
  for thread in threads[:1]:
    thread.join(0.1)
  while len(said) < 6:  # those that are refused need not wait
    threads[0].join(0.01)
  go.set()
  for thread in threads:
    thread.join(30)
  assert (
    sorted(said) == ["4 requests are waiting already: try again in a moment."] * 6 + ["found"] * 4
  )
  assert network.most_at_once == 1 and looker.computed == 4


def test_a_run_that_is_not_there_is_a_sentence(looker):
  with pytest.raises(ValueError, match="There is no run 'x' here, only run0"):
    looker.look("x", made.encoded(), "a.png", "cat")
