"""The command on small runs: one, two side by side, and runs of which pieces are missing."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
import tiny
from html_page import Page

from rkd_jax.report import examination
from rkd_jax.report.__main__ import main, short_names
from rkd_jax.report.labels import open_labels
from rkd_jax.runs.checkpoint import Checkpointer
from rkd_jax.runs.config import write_config
from rkd_jax.train.tasks import make_task
from rkd_jax.train.train import Trainer

REPOSITORY = Path(__file__).parents[2]
SETTINGS = {
  "compilation_cache": "",
  "data.eval.batch_size": 4,
  "model.classifier.temperature": 1.0,
  "model.classifier.bias": 0.0,
  "model.rpn.test.post_nms": 32,
  "model.test.candidates": 512,
  "model.test.score_threshold": 0.0,
}
HEADINGS = ("Runs", "Training curves", "Classes", "Precision and recall", "Best and worst images")
HEADINGS += (
  "Scores as probabilities",
  "Kinds of errors",
  "Confusion among names",
  "Sizes",
  "Proposals",
)
HEADINGS += ("Region embeddings", "Nearest words of a region", "Which box a label supervises")


def headings(text):
  return re.findall(r"<h2>(.*?)</h2>", text)


@pytest.mark.parametrize(
  "folders, names",
  [
    (["runs/a/seed0", "runs/b/seed0"], ["a", "b"]),
    (["runs/a", "runs/a/b"], ["a", "a/b"]),
    (["x/a", "x/a"], ["x/a", "x/a (2)"]),
    (["r/a/checkpoints/1", "r/a/checkpoints/2"], ["1", "2"]),
    (["a/x/1", "b/y/1"], ["a/x", "b/y"]),
  ],
)
def test_runs_are_called_by_what_tells_them_apart(folders, names):
  assert short_names(folders) == names


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["nowhere"], r"config.json is missing: expected the --workdir of a run"),
    (["nowhere", "--limit=0"], "2"),
    ([], "2"),
  ],
)
def test_what_is_no_run_is_said_in_a_sentence(arguments, message, tmp_path, monkeypatch, capsys):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(SystemExit, match=message):
    main(arguments)
  assert not list(tmp_path.iterdir())


def test_a_clips_run_is_refused(tmp_path):
  config = {"task": "clip", "class_embeddings": "", "data": {"dir": ""}}
  (tmp_path / "config.json").write_text(json.dumps(config))
  with pytest.raises(SystemExit, match="a run of task 'clip': expected one of a detector"):
    main([str(tmp_path)])


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
  """Two runs of random weights, the first with a metrics file."""
  root = tmp_path_factory.mktemp("root")
  tiny.build_data(root)
  for seed, name in enumerate(("first", "second")):
    config = tiny.get_config(str(root))
    config.update_from_flattened_dict(SETTINGS)
    folder = root / name
    write_config(folder, config)
    checkpointer = Checkpointer(str(folder), 1)
    checkpointer.save(Trainer(config, make_task(config, ""), jax.devices()[:1]).create(seed))
    checkpointer.close()
  records = ({"step": step, "kind": "box", "loss": 3.0 - step / 10} for step in range(25))
  (root / "first" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
  return root


@pytest.mark.door
def test_two_runs_side_by_side_and_again(runs, tmp_path, capsys, monkeypatch):
  folders, output = [str(runs / name) for name in ("first", "second")], tmp_path / "p" / "both.html"
  main([*folders, f"--output={output}"])
  assert f"{output}: open it in a browser." in capsys.readouterr().out
  text = output.read_text()
  page = Page(text)
  assert tuple(headings(text)) == HEADINGS
  assert "On all 8 images of shapes_ovd/scenes/validation" in page.text
  assert "second has no metrics file." in page.text and "box · loss" in page.text
  # Rows of images: as many pictures of the one run as of the other.
  captions = re.findall(r"<figcaption>(first|second): \d+ hit", text)
  assert captions.count("first") == captions.count("second") >= 4
  assert page.text.count("novel") > 17 and "AP50 novel" in page.text

  # What was found is kept: the same page without a detector.
  kept = (runs / "first" / "report.npz").read_bytes()
  assert len(kept) < 200_000

  def refuse(*arguments):
    raise AssertionError("computed again")

  monkeypatch.setattr(examination.Detector, "restore", refuse)
  main([*folders, f"--output={output}"])
  assert output.read_text() == text
  # For another number of images, damaged, or of another config it is made anew.
  with pytest.raises(AssertionError, match="computed again"):
    main([folders[0], "--limit=3", f"--output={output}"])
  for damage in (kept[:-200], b"PK no zip"):
    (runs / "first" / "report.npz").write_bytes(damage)
    with pytest.raises(AssertionError, match="computed again"):
      main([folders[0], f"--output={output}"])
  (runs / "first" / "report.npz").write_bytes(kept)
  assert output.read_text() == text


@pytest.mark.door
def test_one_run_of_some_images_by_the_command(runs):
  command = [sys.executable, "-m", "rkd_jax.cli", "report", str(runs / "second"), "--limit=5"]
  environment = {key: value for key, value in os.environ.items() if key != "TQDM_DISABLE"}
  done = subprocess.run(
    command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  text = (runs / "second" / "report.html").read_text()
  Page(text)
  assert "On the first 5 of 8 images" in text and "evaluating: 100%" in done.stderr
  assert not [path for path in (runs / "second").iterdir() if path.name.endswith(".partial")]


@pytest.mark.door
def test_what_is_not_there_is_said_and_the_rest_shown(runs, tmp_path):
  for name in ("no_checkpoint", "no_data"):
    shutil.copytree(runs / "first", tmp_path / name)
  shutil.rmtree(tmp_path / "no_checkpoint" / "checkpoints")
  (tmp_path / "no_data" / "report.npz").unlink(missing_ok=True)
  output = tmp_path / "page.html"
  main([str(tmp_path / "no_checkpoint"), f"--output={output}"])
  page = Page(output.read_text())
  assert tuple(headings(output.read_text())) == ("Runs", "Training curves", "Left out")
  assert "has no checkpoint." in page.text and "<svg" in output.read_text()

  main([str(tmp_path / "no_data"), f"--output={output}", f"--data_dir={tmp_path}/away"])
  assert "no data set 'shapes_ovd/scenes' under" in Page(output.read_text()).text

  main([str(runs / "first"), str(tmp_path / "no_checkpoint"), f"--output={output}"])
  assert tuple(headings(output.read_text())) == (*HEADINGS, "Left out")


@pytest.mark.door
def test_what_is_kept_is_what_the_detector_says(runs):
  run = examination.open_run(runs / "first", "first")
  own = examination.examine(run, 8)
  again = examination.examine(run, 8)
  for name in ("indices", "ranks", "rank_classes", "embeddings", "regions", "region_classes"):
    np.testing.assert_array_equal(getattr(own, name), getattr(again, name))
  assert len(own.found) == 8 and own.proposals == 32
  for found, stored in zip(own.found, again.found, strict=True):
    for name in ("boxes", "scores", "classes"):
      np.testing.assert_array_equal(found[name], stored[name])
  objects = sum(len(run.source[i].boxes) for i in range(8))
  assert len(own.ranks) == len(own.regions) == objects
  for (index, place), number in zip(own.regions.tolist(), own.region_classes.tolist()):
    assert run.source[index].classes[place] == number
  assert own.embeddings.shape == (objects, tiny.EMBEDDING_DIM) and (own.embeddings != 0).any()
  for name, array in vars(own.labels).items():
    np.testing.assert_array_equal(array, getattr(again.labels, name))
  _check_labels(run.labelled, own.labels)


def _check_labels(source, labels):
  """Boxes that do not depend on the detector's weights are those of the records."""
  assert len(labels.indices) == 6 and labels.valid.any(axis=(0, 2)).all()
  for row, index in enumerate(labels.indices.tolist()):
    record, count = source[index], labels.valid[row, 0].sum()
    limits = [record.width, record.height] * 2
    assert count == min(len(record.pseudo_labels), labels.classes.shape[1])
    largest = max(
      record.region_boxes.tolist(), key=lambda box: (box[2] - box[0]) * (box[3] - box[1])
    )
    expected = {0: record.pseudo_boxes[:count], 1: [[0, 0, *limits[:2]]], 2: [largest]}
    for choice, boxes in expected.items():
      own = labels.boxes[row, choice][labels.valid[row, choice]]
      boxes = np.broadcast_to(np.minimum(boxes, limits), (count, 4))
      np.testing.assert_allclose(own, boxes, atol=1e-3)


def test_a_run_without_labels_says_why(runs):
  run = examination.open_run(runs / "first", "first")
  assert len(run.labelled) == tiny.SIZES["train_images"] and not run.no_labels
  config = run.config.unlock()
  for change, message in (
    ({"data.teachers": str(runs / "away")}, "away"),
    ({"data.image.class_embeddings": "away.npz"}, "there is no file 'away.npz'"),
    ({"data.schedule": ("box",)}, "its data.schedule has no image batches."),
  ):
    changed = config.copy_and_resolve_references()
    changed.update_from_flattened_dict(change)
    with pytest.raises(ValueError, match=message):
      open_labels(changed)
