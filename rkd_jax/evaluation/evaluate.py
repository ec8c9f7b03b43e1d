"""Runs a trained detector (or CLIP) over a split and measures it."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import ml_collections
import numpy as np
import tqdm
from absl import logging

from rkd_jax.evaluation import retention
from rkd_jax.evaluation.calibration.calibrator import Calibrator
from rkd_jax.evaluation.calibration.thresholds import save_thresholds
from rkd_jax.evaluation.coco import CocoEvaluator
from rkd_jax.evaluation.lvis import LvisEvaluator
from rkd_jax.evaluation.open_images import OpenImagesEvaluator
from rkd_jax.files import storage
from rkd_jax.frozen.clip import RegionEncoder, load_clip
from rkd_jax.frozen.detector import Detector
from rkd_jax.frozen.fusion import FUSION_CLIP, kind_of
from rkd_jax.frozen.regions import crop_regions
from rkd_jax.inputs.batching import eval_batches
from rkd_jax.inputs.plan import detector_specs
from rkd_jax.machine import cluster
from rkd_jax.machine.workers import in_order
from rkd_jax.ops.host import unit
from rkd_jax.records.decoding import BadImageError
from rkd_jax.records.sources import Source, decode_image, open_source
from rkd_jax.runs import evaluations
from rkd_jax.runs.checkpoint import CheckpointError, run_and_step
from rkd_jax.runs.config import evaluated_otherwise, restore_config
from rkd_jax.structures import Batch, Detections, Vocabulary
from rkd_jax.vocabulary.class_embeddings import embed_classes
from rkd_jax.vocabulary.vocabulary import check_same_clip, load_vocabulary

_CLIP_IMAGES = 200  # of a split, the first


def detections_of(
  detector: Detector, source: Source, vocabulary: Vocabulary, config: ml_collections.ConfigDict
) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
  """Yields (record index, {'boxes', 'scores', 'classes'}) for this process's records, in order.

  Detectors with a mask head also give 'masks', in the frames of the boxes; see
  `frozen.detector.encode_masks`.  Each local device takes a batch at a time.  Batches are the same
  for any number of devices and processes, and so are, on devices of a kind, all detections.
  """
  spec, devices = detector_specs(config)["eval"], jax.local_device_count()
  share = jax.process_index(), jax.process_count()
  batches = eval_batches(
    source, spec, *share, threads=config.data.threads, skip_bad_images=config.skip_bad_images
  )

  def detect(batch: Batch) -> tuple[list[int], Detections]:
    found = detector.detect(batch, vocabulary.embeddings, seen=vocabulary.has_boxes)
    return np.flatnonzero(batch.valid).tolist(), found

  options: dict[str, Any] = {} if cluster.is_first() else {"disable": True}
  starts = range(share[0] * spec.batch_size, len(source), share[1] * spec.batch_size)
  total = sum(min(spec.batch_size, len(source) - start) for start in starts)
  with (
    tqdm.tqdm(total=total, desc="evaluating", unit="img", mininterval=2, **options) as bar,
    ThreadPoolExecutor(devices) as threads,
  ):
    # One more than are at work, which the next free device takes.
    detected = in_order(threads, detect, zip(batches), devices + 1)
    for start, (rows, found) in zip(starts, detected):
      arrays = {name: getattr(found, name) for name in ("boxes", "scores", "classes", "masks")}
      for row in rows:
        keep = found.valid[row]
        kept = {name: array[row][keep] for name, array in arrays.items() if array is not None}
        yield start + row, kept
      bar.update(len(rows))


def measured(
  config: ml_collections.ConfigDict,
) -> tuple[Source, Vocabulary, CocoEvaluator | LvisEvaluator | OpenImagesEvaluator]:
  """What `evaluate_detector` measures with: records, their classes and what counts.

  Raises:
    ValueError: an unknown protocol, records or class embeddings that are not there, or the data set
      does not hold what the protocol asks for.
  """
  _check_protocol(config)
  source = open_source(config.data.dir, config.data.name, config.data.eval.split)
  counted = evaluator(config, source)
  return source, load_vocabulary(config, source), counted


def evaluate_detector(
  config: ml_collections.ConfigDict,
  checkpoint: str | Detector,
  stop: Callable[[], bool] = lambda: False,
  calibrate: bool | str = False,
) -> dict[str, Any] | None:
  """AP on `config.data.eval.split`, by the protocol that `config.evaluation.protocol` names, and
  the 'step' of the checkpoint; None if `stop` said so after an image.

  What each gives is said in the module of its name beside this one.  Each process counts its own
  images; the first is sent what the others counted, and has the results, where those have {}.
  With `calibrate` 'points' has what thresholds.json holds, and 'calibration' what its probabilities
  are worth; see `calibration`.  They are of the evaluated split, or of another one that is named,
  whose probabilities are then measured on the evaluated one, too.

  Raises:
    ValueError: see `measured`; a protocol that has no operating points, or no such other split; the
      CLIP of fused scores is not that of the class embeddings.
  """
  with cluster.together():
    source, vocabulary, first = measured(config)
    evaluators: list[Any] = [first, *([calibrator(config, source)] if calibrate else [])]
    looks = [(source, list(evaluators))]
    if isinstance(calibrate, str):
      other_source = _calibration_source(config, calibrate)
      evaluators.append(calibrator(config, other_source))
      looks.append((other_source, evaluators[-1:]))
    of_run = isinstance(checkpoint, str)
    detector = Detector.restore(config, checkpoint) if of_run else checkpoint
    if kind_of(config) == "crops":
      check_same_clip(config, source, detector.fusion_clip, FUSION_CLIP)
  for looked, adding in looks:
    for index, found in detections_of(detector, looked, vocabulary, config):
      for own in adding:
        own.add(looked[index], found)
      if stop():
        return None
  # Some 30 bytes a detection on COCO, 40 for each that counts on LVIS, masks and all: these were
  # compared where they were found.
  others = cluster.sent_to_first(evaluators)
  with cluster.together():
    for own, *same in zip(evaluators, *others):
      for other in same:
        own.merge(other)
    if not cluster.is_first():
      return {}
    results = {"step": detector.step, **first.compute()}
    return results | (_calibrated(config, looks) if calibrate else {})


def _calibration_source(config: ml_collections.ConfigDict, split: str) -> Source:
  """Another split of the evaluated records; ValueError for the same one, or if there is none."""
  if split == config.data.eval.split:
    raise ValueError(
      f"--calibrate_on is {split!r}, the split that is evaluated (data.eval.split), on which what "
      "was fitted to it cannot be measured: name another one, or give --calibrate alone, which "
      "measures each half of the images with what was fitted to the other."
    )
  return open_source(config.data.dir, config.data.name, split)


def _calibrated(
  config: ml_collections.ConfigDict, looks: Sequence[tuple[Source, Sequence[Any]]]
) -> dict[str, Any]:
  """'points' and 'calibration' of the last source, measured on the first if that is another."""
  source, (*_, own) = looks[-1]
  points = own.compute()
  probability = points["probability"]
  if len(looks) > 1:
    evaluated, (_, of_evaluated) = looks[0]
    on = of_evaluated.measured(own.scaling())
    probability["measured_on"] = {"split": evaluated.name, **on}
  worth = {key: probability[key] for key in ("two_fold", "measured_on") if key in probability}
  return {
    "points": {"split": source.name, "fusion": kind_of(config), **points},
    "calibration": {"fitted_on": source.name, **worth},
  }


def evaluator(config: ml_collections.ConfigDict, source: Source, masks: bool = True) -> Any:
  """A new evaluator of the config's protocol; without `masks` LVIS' is of boxes alone.

  Raises ValueError: an unknown protocol, or the split does not hold what it asks for.
  """
  _check_protocol(config)
  return _EVALUATORS[config.evaluation.protocol](config, source, masks)


def _check_protocol(config: ml_collections.ConfigDict) -> None:
  if config.evaluation.protocol not in _EVALUATORS:
    raise ValueError(
      f"evaluation.protocol is {config.evaluation.protocol!r}; expected one of {list(_EVALUATORS)}."
    )


def calibrator(config: ml_collections.ConfigDict, source: Source) -> Calibrator:
  """What collects the operating points on a split; ValueError for protocols without."""
  protocol = config.evaluation.protocol
  if protocol == "open_images":
    raise ValueError(
      "evaluation.protocol 'open_images' has no operating points: what counts as a hit depends on "
      "the classes above each. Leave --calibrate out."
    )
  evaluated = source.class_names if protocol == "lvis" else (*source.base, *source.novel)
  return Calibrator(source.class_names, evaluated)


def evaluate_with_retention(
  config: ml_collections.ConfigDict,
  workdir: str,
  checkpoint: str | Detector,
  stop: Callable[[], bool] = lambda: False,
  calibrate: bool | str = False,
) -> dict[str, Any] | None:
  """`evaluate_detector`, with 'retention' of the old classes if the config names some."""
  results = evaluate_detector(config, checkpoint, stop, calibrate)
  old = retention.config_of(config)
  if results is None or old is None:
    return results
  found = evaluate_detector(old, checkpoint, stop)
  with cluster.together():
    if found:
      step = results["step"]
      results["retention"] = retention.compared(config, workdir, step, found)
  return None if found is None else results


def _coco(config: ml_collections.ConfigDict, source: Source, masks: bool) -> CocoEvaluator:
  limit, engine = config.model.test.detections, config.evaluation.engine
  return CocoEvaluator(source.class_names, source.base, source.novel, engine, limit)


def _lvis(config: ml_collections.ConfigDict, source: Source, masks: bool) -> LvisEvaluator:
  if source.frequencies is None:
    raise ValueError(
      f"evaluation.protocol is 'lvis', but {source.name} does not say which classes are rare and "
      "which were looked for: evaluate on lvis_ovd, or set it to 'coco'."
    )
  masks = masks and config.model.mask_head.layers > 0
  return LvisEvaluator(source.class_names, source.frequencies, masks, config.model.test.detections)


def _open_images(
  config: ml_collections.ConfigDict, source: Source, masks: bool
) -> OpenImagesEvaluator:
  if source.ancestors is None:
    raise ValueError(
      f"evaluation.protocol is 'open_images', but {source.name} does not say which classes stand "
      "above which: evaluate on openimages_challenge2019 (built again, if its version is 1.0.0), "
      "or set it to 'coco'."
    )
  classes = source.class_names, source.base, source.novel, source.ancestors
  return OpenImagesEvaluator(*classes, config.model.test.detections)


_EVALUATORS = {"coco": _coco, "lvis": _lvis, "open_images": _open_images}


def evaluate_clip(config: ml_collections.ConfigDict, checkpoint: str) -> dict[str, Any]:
  """Zero-shot accuracy of CLIP on ground-truth boxes of a split, over all class names, and the
  'step' of the checkpoint; None where there is no box to ask for.
  """
  source = open_source(config.data.dir, config.data.name, config.data.eval.split)
  clip = load_clip(checkpoint)
  crops, labels = [], []
  for record in map(source.__getitem__, range(min(len(source), _CLIP_IMAGES))):
    try:
      image = decode_image(record)
    except BadImageError as error:
      if not config.skip_bad_images:
        raise
      logging.warning("Skipped bad image: %s", error)
      continue
    crops.append(crop_regions(image, record.boxes, clip.image_size))
    labels.append(record.classes)
  embeddings = RegionEncoder(clip).embed(np.concatenate(crops))
  text = unit(embed_classes(clip, source.class_names))
  predicted = np.argmax(embeddings @ text.T, axis=1)
  labels = np.concatenate(labels)
  novel = np.isin(labels, [source.class_names.index(name) for name in source.novel])
  right = predicted == labels
  return {
    "step": clip.step,
    "crop_top1": _mean(right),
    "crop_top1_novel": _mean(right[novel]),
    "crop_top1_base": _mean(right[~novel]),
  }


def _mean(values: np.ndarray) -> float | None:
  return float(values.mean()) if len(values) else None


def evaluate(
  config: ml_collections.ConfigDict, workdir: str, calibrate: bool | str = False
) -> dict[str, Any]:
  """Evaluates a run's newest checkpoint, or the one of WORKDIR/checkpoints/STEP (or best, latest).

  Writes `evaluation.json`, and adds to `evaluations.json`, in the run's folder; where that cannot
  be written, this is said.  Settings that are not those of the run (`evaluated_otherwise`) stand
  under 'evaluated_with', and such results are not added: they choose no best checkpoint.  Of
  several processes the first does so, and has the results.  With `calibrate`, see
  `evaluate_detector`, what was found of a detector's scores goes to `thresholds.json` there.
  """
  clip = config.task == "clip"
  with cluster.together():
    folder, _ = run_and_step(workdir)
  results = {}
  if not clip:
    results = evaluate_with_retention(config, os.fspath(folder), workdir, calibrate=calibrate) or {}
  with cluster.together():
    if clip:
      results = evaluate_clip(config, workdir)
    if cluster.is_first():
      points = results.pop("points", None)
      if changed := {} if clip else evaluated_otherwise(_config_of(folder), config.to_dict()):
        results["evaluated_with"] = {key: now for key, (_, now) in changed.items()}
      store(folder, results)
      try:
        if points is not None:
          save_thresholds(folder, results["step"], points)
      except OSError as error:
        logging.error("The thresholds could not be written to %s: %s.", folder, error)
  return results


def _config_of(folder: os.PathLike) -> dict[str, Any]:
  """The config that a run's folder has, as JSON; empty where it has none."""
  try:
    return restore_config(folder).to_dict()
  except CheckpointError:
    return {}


def store(folder: str | os.PathLike, results: Mapping[str, Any]) -> None:
  """Writes the results of a step in the run's folder; where that cannot be, it is said."""
  try:
    storage.write(storage.path(folder) / "evaluation.json", json.dumps(results, indent=2))
    if "evaluated_with" not in results:
      evaluations.record(folder, results["step"], results)
  except OSError as error:
    logging.error("The results could not be written to %s: %s.", folder, error)
