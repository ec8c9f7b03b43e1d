"""The sections on made detections: LVIS' groups, data without novel classes, nothing found."""

import dataclasses
from types import SimpleNamespace

import ml_collections
import numpy as np
import pytest
from html_page import Page
from made_records import make_record

from rkd_jax.evaluation.evaluate import calibrator, evaluator
from rkd_jax.models.detector.label_boxes import CHOICES
from rkd_jax.report import gallery, sections
from rkd_jax.report.examination import NEVER, Examination, Run
from rkd_jax.report.labels import LabelBoxes

NAMES = ("cat", "<dog>", "猫")


def examined(protocol="coco", novel=(), found=True, name="run"):
  """Three images with a cat and a dog each, all found but for the last dog, called 猫."""
  config = ml_collections.ConfigDict(
    {
      "evaluation": {"protocol": protocol, "engine": "hotcoco"},
      "model": {"test": {"detections": 100}, "mask_head": {"layers": 1}},
    }
  )
  lists = {"negative_labels": np.array([2]), "not_exhaustive_labels": np.array([], np.int64)}
  boxes = np.array([[1, 1, 9, 12], [4, 4, 14, 19]], np.float32)
  own = {"boxes": boxes, "classes": np.array([0, 1], np.int32), "is_crowd": np.zeros(2, bool)}
  own |= {"areas": np.array([88, 150], np.float32)} | (lists if protocol == "lvis" else {})
  records = [make_record(0, image_id=i, **own) for i in range(3)]
  source = SimpleNamespace(
    class_names=NAMES,
    base=tuple(n for n in NAMES if n not in novel),
    novel=tuple(novel),
    frequencies=("r", "f", "c") if protocol == "lvis" else None,
    name="own/validation",
  )

  class Source(SimpleNamespace):
    def __getitem__(self, index):
      return records[index]

    def __len__(self):
      return len(records)

  source = Source(**vars(source))
  classes = [np.array([0, 1]), np.array([0, 1]), np.array([0, 2])]
  detections = [
    {"boxes": boxes, "scores": np.array([0.9, 0.8 + i / 50]), "classes": number}
    for i, number in enumerate(classes)
  ]
  if not found:
    detections = [{k: v[:0] for k, v in own.items()} for own in detections]
  rng = np.random.default_rng(0)
  examination = Examination(
    indices=np.arange(3),
    found=detections,
    ranks=np.array([0, 150, 2, NEVER, 5, 20]),
    rank_classes=np.array([0, 1, 0, 1, 0, 1]),
    proposals=500,
    embeddings=rng.normal(size=(6, 4)).astype(np.float16),
    regions=np.array([[i, k] for i in range(3) for k in range(2)]),
    region_classes=np.array([0, 1] * 3),
    rows=rng.normal(size=(3, 4)).astype(np.float32),
  )
  run = Run(name, "folder", config, 7, source)
  parts = evaluator(config, source, masks=False), calibrator(config, source)
  return sections.examined(run, examination, *parts)


def all_sections(runs):
  made = [*sections.NUMBERS, *gallery.PICTURES]
  return [sections.runs_table([own.run for own in runs], runs), *(make(runs) for make in made)]


def test_lvis_has_its_groups_and_says_what_is_left_out():
  own = examined("lvis", novel=["cat"])
  assert list(own.groups) == ["rare", "common", "frequent", "all"]
  page = Page("".join(all_sections([own])))
  for text in ("APr", "APc", "APf", "AP of each class", "rare", "rare classes", "Left out: TIDE"):
    assert text in page.text
  assert "AP50 novel" not in page.text


def test_without_novel_classes_there_is_no_group_of_them():
  own = examined()
  assert list(own.groups) == ["base", "all"]
  page = Page("".join(all_sections([own])))
  assert "novel classes" not in page.text and "base classes" in page.text
  assert "<dog> → 猫" in page.text and "Embeddings of annotated regions of classes" in page.text


def test_nothing_found_is_still_a_page():
  page = Page("".join(all_sections([examined(found=False, name="a"), examined(name="b")])))
  assert "never" in page.text and "No object is taken for another class." in page.text
  assert "a: 0 hit, 2 missed, 0 false" in page.text


def test_proposals_cover_parts_of_the_objects():
  text = sections.proposals([examined(novel=["<dog>"])])
  # Of the dogs one is proposed among the first 100, another one later; all cats are.
  rows = Page(text).text
  assert "33.3%66.7%66.7%" in rows and "100.0%100.0%100.0%" in rows
  assert "best 100" in rows and "best 300" in rows and "best 500" in rows


def test_probabilities_of_two_runs_stand_beside_the_diagonal():
  """Of six detections with scores of 0.8 to 0.9 one, of 0.84, is no hit."""
  text = sections.probabilities([examined(name="a"), examined(found=False, name="b")])
  # The cats, of one score, share a bin until each half of the images has a scaling of its own.
  assert text.count("stroke-dasharray") == 2 and text.count('class="f0"') == 4 + 5
  page = Page(text).text
  assert "scores as they are" in page and "calibrated" in page and "b0––––" in page
  brier = (3 * 0.1**2 + 0.2**2 + 0.18**2 + 0.84**2) / 6
  errors = 0.3, 0.2, 0.18, 0.84  # the cats share a bin
  assert f"a6{sum(errors) / 6:.3f}{brier:.3f}" in page
  alone = sections.probabilities([examined(found=False)])
  assert "<svg" not in alone


def test_pictures_show_hits_misses_and_false_detections():
  picture = gallery.outcome(examined(novel=["<dog>"]), 2)

  def has(colour):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((picture == np.array(rgb)).all(axis=-1).any())

  assert all(map(has, (gallery.HIT, gallery.FALSE, gallery.MISSED)))
  first = gallery.outcome(examined(novel=["<dog>"]), 0)
  assert not (first == np.array([0xE0, 0x31, 0x31])).all(axis=-1).any()


def test_labels_have_a_box_by_each_choice_that_there_is():
  plain = examined(name="<plain>")
  plain = dataclasses.replace(plain, run=dataclasses.replace(plain.run, no_labels="No batches."))
  text = gallery.supervised([plain])
  assert "Left out. <plain>: No batches." in Page(text).text and "<figure" not in text
  boxes = np.zeros((1, len(CHOICES), 2, 4), np.float32)
  boxes[0, :, 0] = [[4 * k, 1, 4 * k + 3, 12] for k in range(len(CHOICES))]
  valid = np.zeros(boxes.shape[:3], bool)
  valid[0, :-1, 0] = True
  labels = LabelBoxes(np.array([1]), np.array([[1, 0]]), boxes, valid)
  own = dataclasses.replace(
    plain,
    run=dataclasses.replace(plain.run, name="run", labelled=plain.run.source),
    own=dataclasses.replace(plain.own, labels=labels),
  )
  text = gallery.supervised([own, plain])
  assert text.count("<figure") == 1 and "<figcaption>&lt;dog&gt;</figcaption>" in text
  assert "<plain>: No batches." in Page(text).text
  assert all(f"({choice})" in Page(text).text for choice in CHOICES)
  picture = gallery.of_labels(own, 0)
  for colour, shown in zip(gallery.LABEL_COLOURS, [True] * 4 + [False], strict=True):
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    assert (picture == np.array(rgb)).all(axis=-1).any() == shown, colour


@pytest.mark.parametrize(
  "records, text",
  [
    ([], "No run has a metrics file with losses or evaluations."),
    ([{"step": 1, "kind": "pace", "loss": 2.0}], "No run has a metrics file"),
    ([{"step": 1, "kind": "eval", "AP50_novel": None, "AP50_base": 5.0}], "eval · AP50_base"),
  ],
)
def test_curves_are_those_that_the_metrics_have(records, text):
  page = Page(sections.training_curves({"a": records, "b": []}))
  assert text in page.text and "AP50_novel" not in page.text
