"""Evaluation on several devices and processes: the numbers of one, to the last digit."""

import json
import types

import jax
import numpy as np
import processes
import pytest
import tiny
import tiny_clip

from rkd_jax.configs import common
from rkd_jax.data.shapes_ovd.shapes_ovd import SceneEntry
from rkd_jax.evaluation import evaluate as evaluate_lib
from rkd_jax.evaluation.calibration.scaling import Scaling
from rkd_jax.evaluation.calibration.thresholds import load_thresholds
from rkd_jax.evaluation.evaluate import calibrator, detections_of, evaluate
from rkd_jax.frozen.detector import Detector
from rkd_jax.inputs.batching import eval_batches
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.machine.replicas import Replicas
from rkd_jax.records.sources import open_source
from rkd_jax.runs import evaluations
from rkd_jax.runs.checkpoint import Checkpointer
from rkd_jax.train.tasks import make_task
from rkd_jax.train.train import Trainer
from rkd_jax.vocabulary import class_embeddings
from rkd_jax.vocabulary.vocabulary import load_vocabulary

# Four batches, the last half empty.  With every class in every box, weights that nothing has
# trained find some objects, too.
SIZES = {"train_boxes": 4, "train_images": 4, "validation": 7}
SETTINGS = {
  "data.eval.batch_size": 2,
  "model.classifier.temperature": 1.0,
  "model.classifier.bias": 0.0,
  "model.rpn.test.post_nms": 32,
  "model.test.candidates": 2560,
  "model.test.detections": 2560,
  "model.test.nms_threshold": 0.9,
  "model.test.score_threshold": 0.0,
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("root")
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tiny, "SIZES", SIZES)
    tiny.build_data(root)
  config = tiny.get_config(str(root))
  checkpointer = Checkpointer(str(root / "run"), 1)
  checkpointer.save(Trainer(config, make_task(config, ""), jax.devices()[:1]).create(0))
  checkpointer.close()
  return root


@pytest.fixture(scope="module")
def config(root):
  config = tiny.get_config(str(root))
  config.update_from_flattened_dict(SETTINGS)
  return config


@pytest.fixture(scope="module")
def of_one_process(root, config):
  return evaluate(config, str(root / "run"))


def _of_two_processes(root, *settings):
  flags = [f"--config=tests/tiny.py:{root}", f"--workdir={root / 'run'}", "--mode=eval"]
  flags += [f"--config.{key}={value}" for key, value in SETTINGS.items()]
  return processes.run(root / "logs", "-m", "rkd_jax.main", *flags, *settings, devices=4)


def test_detections_of_eight_devices_are_those_of_one(root, config, monkeypatch):
  source = open_source(config.data.dir, config.data.name, "validation")
  vocabulary, detector = (
    load_vocabulary(config, source),
    Detector.restore(config, str(root / "run")),
  )
  used, detect = set(), detector._detect

  def spied(variables, *args):
    used.update(device for leaf in jax.tree.leaves(variables) for device in leaf.devices())
    return detect(variables, *args)

  monkeypatch.setattr(detector, "_detect", spied)
  shared = list(detections_of(detector, source, vocabulary, config))
  assert [index for index, _ in shared] == list(range(7))
  assert len(used) == 4 and len(jax.local_devices()) == 8

  monkeypatch.setattr(detector, "_replicas", Replicas(detector.variables, jax.devices()[:1]))
  used.clear()
  batches = eval_batches(source, detector_specs(config)["eval"])
  alone = [detector.detect(batch, vocabulary.embeddings) for batch in batches]
  assert len(used) == 1
  for index, found in shared:
    expected, row = alone[index // 2], index % 2
    assert expected.valid[row].sum() > 500
    for name, array in found.items():
      np.testing.assert_array_equal(array, getattr(expected, name)[row][expected.valid[row]])


@pytest.mark.door
def test_calibration_leaves_the_operating_points_in_the_run(root, config, of_one_process):
  results = evaluate(config, str(root / "run"), calibrate=True)
  worth = results.pop("calibration")
  assert results == of_one_process
  thresholds = load_thresholds(root / "run")
  assert thresholds.split == "shapes_ovd/scenes/validation" and thresholds.content["images"] == 7
  found = {name: own["objects"] for name, own in thresholds.content["classes"].items()}
  assert found == {name: own["num_gt"] for name, own in results["per_class"].items()}
  assert thresholds.content["all"]["hits"] > 0
  assert thresholds.threshold_for(list(found), "f1").shape == (len(found),)
  probability = thresholds.content["probability"]
  assert worth == {"fitted_on": thresholds.split, "two_fold": probability["two_fold"]}
  assert probability["two_fold"]["after"]["brier"] < probability["two_fold"]["before"]["brier"]
  assert thresholds.content["fusion"] == ""


@pytest.mark.door
def test_calibration_on_another_split_is_measured_on_the_evaluated_one(
  root, config, of_one_process
):
  """As if both had been looked at by themselves."""
  results = evaluate(config, str(root / "run"), calibrate="train_boxes")
  worth = results.pop("calibration")
  assert results == of_one_process
  fitted = load_thresholds(root / "run")
  assert fitted.split == worth["fitted_on"] == "shapes_ovd/scenes/train_boxes"
  assert fitted.content["images"] == worth["two_fold"]["images"] == 4
  detector = Detector.restore(config, str(root / "run"))
  source = open_source(config.data.dir, config.data.name, config.data.eval.split)
  own = calibrator(config, source)
  vocabulary = load_vocabulary(config, source)
  for index, found in detections_of(detector, source, vocabulary, config):
    own.add(source[index], found)
  names, probability = source.class_names, fitted.content["probability"]
  biases = [probability["classes"].get(name, probability["bias"]) for name in names]
  scaling = Scaling(probability["slope"], probability["bias"], np.array(biases))
  expected = {"split": "shapes_ovd/scenes/validation", **own.measured(scaling)}
  assert worth["measured_on"] == probability["measured_on"] == expected


@pytest.mark.parametrize(
  "split, message",
  [
    ("validation", "--calibrate_on is 'validation', the split that is evaluated .* --calibrate"),
    ("nowhere", "has no split 'nowhere'; it has"),
  ],
)
def test_calibration_on_the_same_or_no_split_is_refused_before_any_image(
  root, config, monkeypatch, split, message
):
  monkeypatch.setattr(evaluate_lib, "detections_of", None)
  with pytest.raises(ValueError, match=message):
    evaluate(config, str(root / "run"), calibrate=split)


@pytest.mark.hosts
def test_two_processes_of_four_devices_have_the_numbers_of_one(root, of_one_process):
  assert sum(entry["AP"] is not None for entry in of_one_process["per_class"].values()) > 10
  assert 0 < of_one_process["AP_novel"] < of_one_process["AP50_novel"] < 100
  results = root / "run" / "evaluation.json"
  results.unlink()
  first, second = _of_two_processes(root)
  assert first.returncode == second.returncode == 0, first.stderr + second.stderr
  printed = json.loads(first.stdout[first.stdout.index("{") :])
  assert printed == json.loads(results.read_text()) == of_one_process
  assert "evaluating" in first.stderr
  assert "AP" not in second.stdout and "evaluating" not in second.stderr


@pytest.mark.hosts
def test_a_bad_image_of_one_process_ends_both(root, tmp_path):
  load = SceneEntry.load

  def cut(self, *limit):
    entry = load(self)
    broken = self.split == "validation" and self.index == 2
    return entry | {"image": entry["image"][: len(entry["image"]) // (2 if broken else 1)]}

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(tiny, "SIZES", SIZES)
    patch.setattr(SceneEntry, "load", cut)
    tiny.build_data(tmp_path)
  first, second = _of_two_processes(root, f"--config.data.dir={tmp_path / 'data'}")
  assert first.returncode == second.returncode == 1
  assert second.stderr.count("Cannot decode image 'validation_000002.jpg'") == 1
  assert "Another process of this run has ended" in first.stderr.splitlines()[-1]
  assert "AP" not in first.stdout + second.stdout


@pytest.mark.hosts
def test_what_is_wrong_everywhere_is_told_of_once(root):
  first, second = _of_two_processes(root, f"--workdir={root / 'nowhere'}")
  assert first.returncode == second.returncode == 1
  assert first.stderr.count("No checkpoint at") == 1 and "Error" not in second.stderr


def test_clip_on_records_without_novel_classes_has_no_number_for_them(
  config, tmp_path, monkeypatch
):
  source = open_source(config.data.dir, config.data.name, config.data.eval.split)
  source.novel = ()
  monkeypatch.setattr(evaluate_lib, "open_source", lambda *place: source)
  texts = [class_embeddings.TEMPLATE.format(name) for name in source.class_names]
  tiny_clip.write_run(tmp_path, texts)
  of_clip = common.clip()
  of_clip.data.dir, of_clip.data.name = config.data.dir, config.data.name
  results = evaluate(of_clip, str(tmp_path))
  assert results["crop_top1_novel"] is None and results["step"] == 1
  assert results["crop_top1"] == results["crop_top1_base"]
  assert json.loads((tmp_path / "evaluation.json").read_text()) == results


def test_results_under_other_settings_say_so_and_choose_no_checkpoint(root, monkeypatch, tmp_path):
  workdir, config = tmp_path / "run", tiny.get_config(str(root))
  (workdir / "checkpoints" / "4").mkdir(parents=True)
  (workdir / "config.json").write_text(json.dumps(config.to_dict()))

  def measured(config, workdir, checkpoint, calibrate):
    return {"step": 4, "AP50_all": 5.0}

  monkeypatch.setattr(evaluate_lib, "evaluate_with_retention", measured)
  config.model.test.score_threshold = 0.5
  results = evaluate(config, str(workdir))
  assert results["evaluated_with"] == {"model.test.score_threshold": 0.5}
  assert json.loads((workdir / "evaluation.json").read_text()) == results
  assert evaluations.read(workdir) == {}
  evaluate(tiny.get_config(str(root)), str(workdir))
  assert evaluations.read(workdir) == {4: {"step": 4, "AP50_all": 5.0}}


def test_scores_are_not_fused_with_those_of_another_clip(config):
  config = config.copy_and_resolve_references()
  config.model.test.fusion.kind = "crops"
  source = open_source(config.data.dir, config.data.name, config.data.eval.split)
  own = load_vocabulary(config, source).embeddings
  # A detector that looked at an image would be missed.
  clip = types.SimpleNamespace(embed_texts=lambda texts: -own[: len(texts)])
  with pytest.raises(ValueError, match=r"^The CLIP of model\.test\.fusion\.clip is not the one"):
    evaluate_lib.evaluate_detector(config, types.SimpleNamespace(fusion_clip=clip))
