"""Open Images for evaluation: the hierarchy, groups, verified classes, AP; counted by hand."""

import json
import re
import sys
import types

import numpy as np
import openimages_files
import pytest
from official_files import HEIGHT, WIDTH, write_image
from openimages_files import ANIMAL, BOXES, CAR, CARNIVORE, CAT, DOG, LABELS, WHEEL

from rkd_jax.configs.lvis import base
from rkd_jax.data.openimages_challenge2019 import openimages_challenge2019 as openimages
from rkd_jax.evaluation import evaluate
from rkd_jax.records.sources import open_source


@pytest.fixture
def root(tmp_path):
  openimages_files.write(tmp_path)
  for name in ("fffffffffffffff1", "0000000000000002", "0000000000000003"):
    write_image(tmp_path / f"validation/{name}.jpg")
  return tmp_path


def _run(root, monkeypatch, *flags):
  command = f"x --data_dir={root}/built --openimages={root} --images={root}/validation"
  monkeypatch.setattr(sys, "argv", [*command.split(), *flags])
  openimages.main()
  return root / "built"


def test_boxes_count_for_the_classes_above(root, monkeypatch, capsys):
  source = open_source(_run(root, monkeypatch), "openimages_challenge2019/plain", "validation")
  assert source.class_names == source.novel and source.base == ()
  assert [record.filename[-5:] for record in source] == ["2.jpg", "3.jpg", "1.jpg"]
  assert [record.image_id for record in source] == [1, 2, 3]
  empty, other, cat = source
  assert cat.classes.tolist() == [CAT, ANIMAL, CARNIVORE, CAR]
  assert cat.is_crowd.tolist() == [False, False, False, True]
  box = [0.25 * WIDTH, 0.1 * HEIGHT, 0.5 * WIDTH, HEIGHT]
  np.testing.assert_allclose(cat.boxes, [box, box, box, [0, 0, WIDTH, HEIGHT]], atol=1e-4)
  assert len(empty.boxes) == len(other.boxes) == 0
  out = capsys.readouterr().out
  assert "6 classes (official: 500)" in out and "1 boxes without area left out" in out
  assert "3 images; along the hierarchy 4 boxes, 1 of them of groups" in out


def test_verified_classes_go_up_and_absent_ones_down(root, monkeypatch):
  source = open_source(_run(root, monkeypatch), "openimages_challenge2019/plain", "validation")
  empty, other, cat = source
  assert cat.labels.tolist() == [CAT, ANIMAL, CARNIVORE, CAR]
  assert cat.negative_labels.tolist() == [WHEEL]
  assert empty.labels.tolist() == [ANIMAL, CARNIVORE] and empty.negative_labels.tolist() == [CAR]
  assert other.labels.tolist() == []
  assert other.negative_labels.tolist() == [CAT, ANIMAL, CARNIVORE, DOG]
  assert other.not_exhaustive_labels.tolist() == []


def test_records_are_evaluated_by_the_rules_of_the_challenge(root, monkeypatch):
  """A cat that is found, one where nobody looked for cats, and one where there is none."""
  data_dir = _run(root, monkeypatch)
  source = open_source(data_dir, "openimages_challenge2019/plain", "validation")
  assert source.ancestors == ([ANIMAL, CARNIVORE], [], [ANIMAL], [], [], [ANIMAL, CARNIVORE])
  box = source[2].boxes[:1]

  def found(*_):
    # By ascending ImageID: without boxes and with unverified cats, without animals, with the cat.
    for index, score in enumerate((0.9, 0.8, 0.7)):
      yield index, {"boxes": box, "scores": np.array([score]), "classes": np.array([CAT])}

  monkeypatch.setattr(evaluate, "detections_of", found)
  monkeypatch.setattr(evaluate, "load_vocabulary", lambda *_: None)
  restored = types.SimpleNamespace(step=7)
  monkeypatch.setattr(evaluate.Detector, "restore", lambda *_: restored)
  config = base.get_config()
  config.data.dir, config.data.name = str(data_dir), "openimages_challenge2019/plain"
  config.evaluation.protocol = "open_images"
  results = evaluate.evaluate(config, str(root))
  assert json.loads((root / "evaluation.json").read_text()) == results
  per_class = results["per_class"]
  assert [entry["num_gt"] for entry in per_class.values()] == [1, 1, 1, 0, 1, 0]
  # A wrong cat of 0.8 stands before the right one.  As an animal, that of 0.9 is wrong, too, for
  # the image is verified to show a carnivore, and all carnivores are animals.
  assert per_class["Cat"] == {"num_gt": 1, "AP50": 50, "AP50_expanded": 50}
  assert per_class["Animal"]["AP50"] == 0
  assert per_class["Animal"]["AP50_expanded"] == pytest.approx(100 / 3)
  assert results["AP50_novel"] == results["AP50_all"] == pytest.approx(50 / 4)
  assert results["AP50_expanded_all"] == pytest.approx((50 + 100 / 3 + 100 / 3) / 4)
  assert results["AP50_base"] is None


@pytest.mark.parametrize(
  "name, text, message",
  [
    (openimages.CLASSES_CSV, "/m/01,Cat\n/m/02,Cat\n", r"500\.csv, line 2: .*new label"),
    (openimages.HIERARCHY_JSON, "[1]", r"hierarchy\.json: \[1\] is no class"),
    (openimages.BOXES_CSV, "ImageID,XMin\n", r"bbox\.csv has no columns \['LabelName'"),
    (openimages.BOXES_CSV, BOXES + "0000000000000002,/m/03,0.5\n", "line 5: has too few values"),
    (openimages.BOXES_CSV, BOXES.replace("0.25", "1.25"), "line 2: '1.25' is not a number from"),
    (openimages.LABELS_CSV, LABELS.replace("/m/04", "/m/9"), "line 3: '/m/9' is not among the 6"),
  ],
)
def test_malformed_files_are_named_with_their_line(root, monkeypatch, capsys, name, text, message):
  (root / name).write_text(text)
  with pytest.raises(SystemExit):
    _run(root, monkeypatch)
  error = capsys.readouterr().err
  assert name in error and re.search(message, error)


def test_a_missing_image_is_named(root, monkeypatch, capsys):
  (root / "validation/0000000000000003.jpg").unlink()
  with pytest.raises(SystemExit):
    _run(root, monkeypatch, "--dry_run")
  assert "validation/0000000000000003.jpg: No such file" in capsys.readouterr().err
