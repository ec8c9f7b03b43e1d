"""The command, as users start it, on a built data set with random results and a random detector."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

from rkd_jax import retrieve
from rkd_jax.frozen.detector import Detector
from rkd_jax.inputs.batching import eval_batches
from rkd_jax.inputs.plan import detector_specs, make_plan
from rkd_jax.models.detector import rcnn
from rkd_jax.pseudo_labels.writing import of_result
from rkd_jax.records.results import TeacherReader
from rkd_jax.records.results_writer import TeacherWriter
from rkd_jax.records.sources import open_source
from rkd_jax.runs.checkpoint import Checkpointer
from rkd_jax.runs.config import restore_config, write_config
from rkd_jax.runs.state import TrainState
from rkd_jax.vocabulary import class_embeddings
from tests import tiny

SPLITS = ("train_boxes", "train_images")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("retrieve")
  tiny.build_data(root)
  return root


@pytest.fixture(scope="module")
def run(root):
  """A detector of random weights, unsure of nothing."""
  config = tiny.get_config(str(root))
  config.model.classifier.bias = 0.0
  write_config(str(root / "run"), config)
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda x: (0.1 * rng.normal(size=x.shape)).astype(x.dtype), rcnn.abstract_params(config)
  )
  checkpointer = Checkpointer(str(root / "run"))
  checkpointer.save(TrainState(step=np.array(0), params=params, model_state={}, opt_state=()))
  checkpointer.close()
  return root / "run"


def _call(root, *arguments, splits=SPLITS):
  retrieve.main(
    [
      f"--data_dir={root / 'data'}",
      "--dataset=shapes_ovd/scenes",
      f"--splits={','.join(splits)}",
      f"--teachers={root / 'teachers'}",
      f"--class_embeddings={root / 'class_embeddings.npz'}",
      *arguments,
    ]
  )


def _refused(capsys, root, *arguments, **changes):
  with pytest.raises(SystemExit) as error:
    _call(root, *arguments, **changes)
  assert error.value.code == 1
  return capsys.readouterr().err


def _everything(root):
  """(split, image id, region) -> cosines with all classes, by split and image id."""
  rows = class_embeddings.load(root / "class_embeddings.npz").embeddings
  rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
  for split in SPLITS:
    results = TeacherReader(root / "teachers", split)
    for image_id in results.image_ids.tolist():
      embeddings = results[image_id]["regions/clip_embeddings"]
      unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
      for region, cosines in enumerate(unit @ rows.T):
        yield (split, image_id, region), cosines


@pytest.fixture(scope="module")
def retrieved(root):
  _call(root, "--top=3", f"--output={root / 'retrieved'}")
  return root / "retrieved"


def test_the_output_holds_the_regions_most_like_each_class(root, retrieved):
  source = open_source(root / "data", "shapes_ovd/scenes", "train_images")
  wanted = [number for number, name in enumerate(source.class_names) if name not in source.base]
  assert set(source.novel) < {source.class_names[number] for number in wanted}
  expected = set()
  for number in wanted:
    best = {}
    for (split, image_id, region), cosines in _everything(root):
      own = (cosines[number], split, image_id, region)
      best[split, image_id] = max(best.get((split, image_id), own), own)
    for cosine, split, image_id, region in sorted(best.values(), reverse=True)[:3]:
      box = tuple(TeacherReader(root / "teachers", split)[image_id]["regions/boxes"][region])
      expected.add((split, image_id, number, box, round(float(cosine), 4)))
  found = set()
  for split in SPLITS:
    results = TeacherReader(retrieved, split)
    for image_id in results.image_ids.tolist():
      own = of_result(results[image_id])
      assert (np.diff(own.scores) <= 0).all()
      for box, label, score in zip(*own):
        found.add((split, image_id, int(label), tuple(box), round(float(score), 4)))
  assert found == expected


def test_the_summary_and_the_sheets_are_there(root, retrieved):
  content = json.loads((retrieved / "retrieved.json").read_text())
  source = open_source(root / "data", "shapes_ovd/scenes", "train_images")
  assert list(content["classes"]) == [n for n in source.class_names if n not in source.base]
  assert content["without"] == [] and content["boxes"] == 3 * len(content["classes"])
  for own in content["classes"].values():
    assert own["count"] == 3 and own["mean_score"] == own["mean_similarity"]
  with Image.open(retrieved / "retrieved-0.png") as sheet:
    assert sheet.width > 800 and sheet.height > 1000
  assert (retrieved / "retrieved-1.png").exists() == (len(content["classes"]) > 30)


def test_training_reads_the_folder_like_the_teachers(root, retrieved):
  config = tiny.get_config(str(root))
  config.data.teachers = str(retrieved)
  source = make_plan(config).sources["image"]
  counts = [len(source[i].pseudo_labels) for i in range(len(source))]
  assert counts == source.index.num_pseudo_boxes.tolist() and sum(counts) > 10
  before = TeacherReader(root / "teachers", "train_images")
  np.testing.assert_array_equal(
    source[0].region_embeddings, before[source[0].image_id]["regions/clip_embeddings"]
  )


def test_kept_pseudo_boxes_stand_before_the_retrieved(root, retrieved):
  _call(root, "--top=3", "--keep", f"--output={root / 'mixed'}")
  for split in SPLITS:
    folders = (root / "teachers", retrieved, root / "mixed")
    teachers, alone, mixed = (TeacherReader(folder, split) for folder in folders)
    for image_id in mixed.image_ids.tolist():
      first, added, both = (of_result(results[image_id]) for results in (teachers, alone, mixed))
      assert both.labels[: len(first.labels)].tolist() == first.labels.tolist()
      # Boxes of the tiny records' teachers are of labels that the images have.
      assert set(both.labels) == {*first.labels, *added.labels}


def test_named_classes_alone_get_boxes(root, capsys):
  names = open_source(root / "data", "shapes_ovd/scenes", "train_boxes").class_names
  where = f"--output={root / 'named'}"
  _call(root, f"--classes={names[7]}, {names[2]}", "--softmax=30", "--threshold=0.9", where)
  content = json.loads((root / "named" / "retrieved.json").read_text())
  assert list(content["classes"]) == [names[2], names[7]]
  assert all(own.get("mean_score", 1) > 0.9 for own in content["classes"].values())
  out = capsys.readouterr().out
  assert names[2] in out and "precision" in out
  err = _refused(capsys, root, "--classes=unheard of", where)
  assert "--classes names 'unheard of', which is not among the categories" in err


def test_rows_are_mixed_for_classes_that_have_regions(root, capsys):
  text = class_embeddings.load(root / "class_embeddings.npz")
  source = open_source(root / "data", "shapes_ovd/scenes", "train_boxes")
  novel = np.array([name not in source.base for name in source.class_names])
  for direction in ("mean", "probe"):
    _call(root, f"--rows={root / 'rows.npz'}", "--mix=0.4", f"--direction={direction}", "--top=4")
    mixed = class_embeddings.load(root / "rows.npz")
    assert mixed.names == text.names and mixed.templates == text.templates
    np.testing.assert_array_equal(mixed.embeddings[~novel], text.embeddings[~novel])
    lengths = [np.linalg.norm(found.embeddings, axis=1) for found in (mixed, text)]
    np.testing.assert_allclose(*lengths, rtol=1e-5)
    cosines = (mixed.embeddings * text.embeddings).sum(1) / lengths[1] ** 2
    assert (cosines[novel] < 0.999).all() and (cosines[novel] > 0.4).all()
  # None of the regions is so like its name, but for a few classes.
  capsys.readouterr()
  _call(root, f"--rows={root / 'few.npz'}", "--mix=1", "--threshold=0.62")
  out = capsys.readouterr().out
  few = class_embeddings.load(root / "few.npz").embeddings
  changed = np.abs(few - text.embeddings).max(1) > 1e-6
  assert 0 < changed.sum() < novel.sum()
  left = [source.class_names[i] for i in np.flatnonzero(novel & ~changed)]
  assert f"WARNING: no box above the bounds for {', '.join(left)}" in out
  assert f"{changed.sum()} rows" in out and f"{len(left)} without regions have their texts'" in out
  assert "no class has a region" in _refused(capsys, root, "--rows=x.npz", "--threshold=0.999")


def test_the_part_is_chosen_on_a_tuning_split(root, run, monkeypatch, capsys):
  monkeypatch.setattr(retrieve, "MIXES", (0.0, 0.5, 1.0))
  seen = []

  def evaluate(config, detector):
    seen.append((config.data.eval.split, class_embeddings.load(config.class_embeddings)))
    novel = (3.0, 7.0, 7.0)[len(seen) - 1]
    return {"AP50_novel": novel, "AP50_base": 1.0, "AP50_all": 2.0}

  monkeypatch.setattr(retrieve, "evaluate_detector", evaluate)
  where = f"--rows={root / 'tuned.npz'}"
  _call(root, where, f"--tune={run}", "--tune_split=validation")
  assert [split for split, _ in seen] == ["validation"] * 3
  best = class_embeddings.load(root / "tuned.npz").embeddings
  np.testing.assert_array_equal(best, seen[1][1].embeddings)
  assert np.abs(best - seen[2][1].embeddings).max() > 1e-3
  assert "mix 0.5: AP50 7.0 novel, 1.0 base, 2.0 all" in capsys.readouterr().out
  assert "--tune, --tune_split and --rows go together" in _refused(capsys, root, where, "--tune=x")


def test_a_tuned_part_is_measured_by_a_real_evaluation(root, run, monkeypatch, capsys):
  monkeypatch.setattr(retrieve, "MIXES", (0.0,))
  rows = f"--rows={root / 'measured.npz'}"
  _call(root, rows, f"--tune={run}", "--tune_split=validation", "--top=2")
  out = capsys.readouterr().out
  assert "mix 0: AP50 " in out and not (run / "evaluation.json").exists()


@pytest.fixture(scope="module")
def agreeing(root, run):
  """Results with one region an image: a detection of the run, with its class's row or another's.

  By image id, the box and the class of the detection, and whether CLIP agrees.
  """
  config = restore_config(run)
  detector, rows = (
    Detector.restore(config, str(run)),
    class_embeddings.load(root / "class_embeddings.npz"),
  )
  source = open_source(root / "data", "shapes_ovd/scenes", "train_images")
  told = {}
  with TeacherWriter(root / "agreeing", "train_images", tiny.EMBEDDING_DIM, {}) as writer:
    batches = list(eval_batches(source, detector_specs(config)["eval"]))
    found = [detector.detect(batch, rows.embeddings) for batch in batches]
    for index in range(len(source)):
      batch, row = divmod(index, len(batches[0].valid))
      (places,) = (found[batch].valid[row] & (found[batch].classes[row] != 5)).nonzero()
      box, class_ = (
        column[row][places[0]] for column in (found[batch].boxes, found[batch].classes)
      )
      agrees = index % 3 > 0
      embedding = rows.embeddings[class_ if agrees else class_ - 1]
      told[source[index].image_id] = (box, int(class_), agrees)
      result = {
        "regions/boxes": box[None],
        "regions/scores": np.ones(1),
        "regions/clip_embeddings": embedding[None],
        "pseudo_boxes/boxes": np.array([[1, 2, 3, 4]], np.float32),
        "pseudo_boxes/labels": np.array([5]),
        "pseudo_boxes/scores": np.array([0.5], np.float32),
      }
      writer.write(source[index].image_id, result, index)
  return told


def test_a_detector_answers_where_clip_agrees(root, run, agreeing, capsys):
  names = open_source(root / "data", "shapes_ovd/scenes", "train_images").class_names
  wanted = ",".join({names[class_] for _, class_, _ in agreeing.values()})
  arguments = (
    f"--classes={wanted}",
    *(f"--detector={run}", f"--teachers={root / 'agreeing'}", f"--output={root / 'refined'}"),
    *("--score=0", "--overlap=0.99", "--keep"),
  )
  _call(root, *arguments, splits=("train_images",))
  results = TeacherReader(root / "refined", "train_images")
  assert "of_detector" in results.metadata["pseudo_labels"]
  for image_id, (box, class_, agrees) in agreeing.items():
    own = of_result(results[image_id])
    assert own.labels.tolist() == ([5, class_] if agrees else [5])
    np.testing.assert_array_equal(own.boxes[1:], [box] if agrees else np.zeros((0, 4)))
    assert ((own.scores[1:] > 0.5) & (own.scores[1:] <= 1)).all()
  content = json.loads((root / "refined" / "retrieved.json").read_text())
  assert content["boxes"] == sum(agrees for *_, agrees in agreeing.values()) == 8
  before = (root / "refined" / "train_images" / "train_images.index.npz").read_bytes()
  _call(root, *arguments, splits=("train_images",))
  assert (root / "refined" / "train_images" / "train_images.index.npz").read_bytes() == before
  err = _refused(capsys, root, *arguments, "--threshold=0.9", splits=("train_images",))
  assert "use the same settings, or another folder" in err


def test_what_is_missing_is_named_with_its_command(root, capsys, tmp_path):
  err = _refused(capsys, root, "--output=out", splits=("tune",))
  assert "python -m rkd_jax.precompute --data_dir=" in err or "has no split 'tune'" in err
  err = _refused(capsys, root, "--output=out", f"--teachers={tmp_path}")
  assert "No teacher results" in err and "python -m rkd_jax.precompute --data_dir=" in err
  assert "--splits=train_boxes" in err
  for arguments, message in {
    (): "give --output for a folder of pseudo boxes, or --rows",
    ("--rows=x.npz", "--mix=1.5"): "mix=1.5: expected 0",
    ("--rows=x.npz", "--output=out", "--detector=x"): "leave --detector out",
    ("--rows=" + str(root / "class_embeddings.npz"),): "is the file of --class_embeddings",
    ("--rows=x.npz", "--detector=x"): "leave --detector out",
    ("--detector=x",): "give --output",
    (f"--output={root / 'teachers'}",): "is the folder of --teachers",
    ("--output=out", "--top=0"): "top=0",
  }.items():
    assert message in _refused(capsys, root, *arguments), arguments
  with pytest.raises(SystemExit):
    retrieve.main(["--output=out", "--data_dir=x"])
  assert "--dataset, --splits, --teachers, --class_embeddings must be" in capsys.readouterr().err


def test_rows_of_another_width_are_refused(root, run, capsys, tmp_path):
  text = class_embeddings.load(root / "class_embeddings.npz")
  narrow = tmp_path / "narrow.npz"
  class_embeddings.save(narrow, text.names, text.templates, text.embeddings[:, :8])
  err = _refused(capsys, root, f"--class_embeddings={narrow}", f"--output={tmp_path / 'out'}")
  assert "has rows 8 wide" in err and "are 16 wide" in err
  with TeacherWriter(tmp_path / "narrow", "train_images", 8, {}) as writer:
    for image_id in TeacherReader(root / "teachers", "train_images").image_ids.tolist():
      empty = {
        "regions/boxes": np.zeros((0, 4)),
        "regions/scores": np.zeros(0),
        "regions/clip_embeddings": np.zeros((0, 8)),
        "pseudo_boxes/boxes": np.zeros((0, 4)),
        "pseudo_boxes/labels": np.zeros(0),
        "pseudo_boxes/scores": np.zeros(0),
      }
      writer.write(image_id, empty)
  err = _refused(
    capsys,
    root,
    f"--class_embeddings={narrow}",
    f"--teachers={tmp_path / 'narrow'}",
    f"--detector={run}",
    f"--output={tmp_path / 'out'}",
    splits=("train_images",),
  )
  assert "compares with rows 16 wide" in err


def test_a_project_has_its_places():
  args = retrieve.make_parser("").parse_args(["--root=R", "--splits=more"])
  retrieve.complete(args)
  assert (args.data_dir, args.dataset, args.splits) == ("R/data", "coco_json/plain", "more")
  assert (args.teachers, args.class_embeddings) == ("R/teachers", "R/class_embeddings.npz")
  assert args.output == "R/retrieved"


def test_classes_without_annotations_are_the_default():
  class Made:
    name, class_names, base = "made", ("cat", "dog", "zebra"), ("dog",)

  assert retrieve.wanted_of(Made, None) == [0, 2]
  assert retrieve.wanted_of(Made, "zebra, dog") == [1, 2]
  Made.base = Made.class_names
  with pytest.raises(ValueError, match="annotations for all of its 3 classes: say with --classes"):
    retrieve.wanted_of(Made, None)
