"""What the loop trains: a task bundles initialisation, loss and data of a config.

The loop (train.py) is the same for CLIP and for every stage of the detector.  Where a run starts
(fresh parameters, an earlier run, a pretrained backbone) is here, too.
"""

import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath
from flax import traverse_util

from rkd_jax.convert import read_start
from rkd_jax.files import storage
from rkd_jax.frozen.clip import TOKENIZER_FILE, load_clip
from rkd_jax.inputs.examples import BatchSpec
from rkd_jax.inputs.plan import Plan, make_plan, open_sources
from rkd_jax.losses.contrastive import contrastive_loss
from rkd_jax.machine import cluster
from rkd_jax.models.backbones.kinds import KINDS
from rkd_jax.models.clip.model import init_clip, make_clip
from rkd_jax.models.clip.preprocess import normalize
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.models.detector import label_boxes, rcnn
from rkd_jax.records.sources import Source
from rkd_jax.runs.checkpoint import latest_step
from rkd_jax.runs.restore import restore_variables
from rkd_jax.runs.state import TrainState
from rkd_jax.train.step import Loss, detector_loss, detector_memory
from rkd_jax.vocabulary.vocabulary import training_vocabulary


@dataclasses.dataclass(frozen=True)
class Task:
  """A trainable problem.

  Attributes:
    init: key -> (params, model_state).
    loss: see `step.Loss`; `kind` is static.
    constants: arrays the loss needs and training does not change.
    plan: records, shapes and augmentation of the batches.
    memory: gives what the loss remembers before the first step, see `TrainState.memory`.
  """

  init: Callable[[jax.Array], tuple[Any, Any]]
  loss: Loss
  constants: Any
  plan: Plan
  memory: Callable[[], dict[str, Any]] = dict


def make_task(config: ml_collections.ConfigDict, workdir: str) -> Task:
  """The task that `config.task` names."""
  if config.task == "detector":
    return detector_task(config)
  if config.task == "clip":
    return clip_task(config, workdir)
  raise ValueError(f"task is {config.task!r}; expected 'detector' or 'clip'.")


def detector_task(config: ml_collections.ConfigDict) -> Task:
  """Base, RKD, ILS and weight transfer: which terms exist follows from the config."""
  model = rcnn.build(config)
  plan = make_plan(config)
  vocabulary = training_vocabulary(config, plan.sources)
  if config.loss.federated_classes and vocabulary.image_counts is None:
    raise ValueError(
      "loss.federated_classes draws classes by their number of training images: set "
      "config.image_counts to the file that has them (lvis_ovd and coco_ovd records say it)."
    )

  def init(key):
    return model.init(key, *rcnn.dummy_inputs(config))["params"], {}

  memory = functools.partial(detector_memory, config)
  return Task(init, detector_loss(model, config.loss), vocabulary, plan, memory)


def check_distillation(config: ml_collections.ConfigDict, plan: Plan) -> None:
  """Refuses settings of the contrast, the relations and the boxes that make no sense.

  Raises:
    ValueError: one sentence that names the key, what it is, and what it may be.
  """
  if config.task != "detector":
    return
  loss = config.loss
  # Image batches may have regions that are not distilled.
  kinds = [kind for kind in ("box", "image") if kind in plan.schedule and _distils(config, kind)]
  for name in ("contrastive", "relations"):
    own = loss.get(name)
    if own is None:  # a config of before
      continue
    if own.weight < 0:
      raise ValueError(f"loss.{name}.weight is {own.weight}; expected 0, for none, or more.")
    if not own.weight:
      continue
    if own.temperature <= 0:
      raise ValueError(
        f"loss.{name}.temperature is {own.temperature}; expected more than 0: cosines are "
        "multiplied by it."
      )
    if not kinds:
      raise ValueError(
        f"loss.{name}.weight is {own.weight}, but no regions are distilled: set "
        f"data.box.max_regions and data.teachers, or loss.{name}.weight=0."
      )
  below = loss.rpn.get("teacher_boxes", {}).get("below", 0.0)
  if not 0 <= below <= 1:
    raise ValueError(
      f"loss.rpn.teacher_boxes.below is {below}; expected an IoU, from 0 (no boxes) to 1 (all)."
    )
  if below and "box" not in kinds:
    raise ValueError(
      f"loss.rpn.teacher_boxes.below is {below}, but box batches have no regions: set "
      "data.box.max_regions and data.teachers, or loss.rpn.teacher_boxes.below=0."
    )
  boxes = loss.ils.get("boxes", label_boxes.PSEUDO)
  label_boxes.check(boxes, config.data.image.max_regions > 0)
  if boxes != label_boxes.PSEUDO and "image" not in plan.schedule:
    raise ValueError(
      f"loss.ils.boxes is {boxes!r}, but there are no image batches, whose labels it is about: "
      "add 'image' to data.schedule, or set loss.ils.boxes='pseudo'."
    )
  if loss.get("contrastive", {}).get("weight"):
    _check_queue(config, plan, kinds)
  agreement = loss.get("pseudo_agreement", {})
  if not 0 <= agreement.get("threshold", 0.0) <= 1:
    raise ValueError(
      f"loss.pseudo_agreement.threshold is {agreement.threshold}; expected a mean of two "
      "probabilities, from 0 to 1."
    )
  if agreement.get("on") and not (config.data.box.pseudo_labels and "box" in plan.schedule):
    raise ValueError(
      "loss.pseudo_agreement.on is True, but box batches have no pseudo labels: set "
      "data.box.pseudo_labels, or loss.pseudo_agreement.on=False."
    )


def _distils(config: ml_collections.ConfigDict, kind: str) -> bool:
  counts = kind == "box" or config.loss.rkd.on_image_batches
  return counts and config.data[kind].max_regions > 0


def _check_queue(config: ml_collections.ConfigDict, plan: Plan, kinds: Sequence[str]) -> None:
  queue, duplicates = config.loss.contrastive.queue, config.loss.contrastive.duplicates
  if not 0 < duplicates <= 1:
    raise ValueError(
      f"loss.contrastive.duplicates is {duplicates}; expected a cosine above 0, up to 1, which "
      "counts all negatives."
    )
  most = sum(len(plan.sources[kind]) * config.data[kind].max_regions for kind in kinds)
  if not 0 <= queue <= most:
    what = " and ".join(
      f"{len(plan.sources[k]):,} records of {config.data[k].max_regions} regions (data.{k})"
      for k in kinds
    )
    raise ValueError(
      f"loss.contrastive.queue is {queue:,}; expected 0 up to {most:,}, as many as {what} can "
      "give: a longer one would hold regions twice."
    )


def clip_task(config: ml_collections.ConfigDict, workdir: str) -> Task:
  """Contrastive training of both CLIP towers on captioned images.

  The tokenizer keeps only the tokens that the captions use; it is written beside
  the checkpoints, because the text tower means nothing without it.
  """
  sources = open_sources(config)
  file = epath.Path(workdir) / TOKENIZER_FILE
  if latest_step(workdir) is not None:
    tokenizer = Tokenizer(**json.loads(file.read_text()))
  else:
    tokenizer = caption_tokenizer(sources["caption"], config.clip.context_length)
    if cluster.is_first():
      file.write_text(json.dumps(tokenizer.to_dict()))
  model = make_clip(config.clip.to_dict(), tokenizer.vocabulary_size)
  fields = {k: v for k, v in config.data.caption.items() if k != "split"}
  # The same captions come back every epoch; cleaning and encoding a text is slow.
  tokenize = functools.lru_cache(100_000)(lambda text: tokenizer(text)[0])
  spec = BatchSpec(kind="caption", tokenizer=tokenize, **fields)

  def init(key):
    variables = init_clip(model, key)
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}

  def loss(params, model_state, constants, batch, key, kind):
    variables, pixels = {"params": params, **model_state}, normalize(batch.images)
    (images, texts, scale), new_state = model.apply(
      variables, pixels, batch.tokens, True, mutable=list(model_state)
    )
    value, accuracy = contrastive_loss(images, texts, scale, batch.tokens)
    return value, ({"accuracy": accuracy, "scale": scale}, new_state)

  return Task(init, loss, {}, make_plan(config, sources, {"caption": spec}))


def caption_tokenizer(source: Source, context_length: int) -> Tokenizer:
  """A tokenizer for the words of a data set's captions."""
  captions = {c for i in range(len(source)) for c in source[i].captions}
  return Tokenizer.for_texts(sorted(captions), context_length)


def initialize(config: ml_collections.ConfigDict, state: TrainState) -> TrainState:
  """A fresh state with what `config.init` names put in its place.

  `init.checkpoint`: all parameters of an earlier run's newest checkpoint, or of a file that
  `rkd_jax.convert` reads, but those of `init.allow_missing`.  `init.backbone`: the backbone of a
  detector from the image tower of a CLIP run.

  Raises:
    CheckpointError: nothing there, or it belongs to another model.
    ValueError: both are given, or the tower is not that of the config's backbone.
  """
  checkpoint, backbone = config.init.checkpoint, config.init.get("backbone", "")
  if checkpoint and backbone:
    raise ValueError(
      f"init.checkpoint {checkpoint!r} holds a backbone already; leave init.backbone empty."
    )
  if checkpoint and storage.path(checkpoint).is_file():
    flat = traverse_util.flatten_dict(state.params, sep="/")
    found = traverse_util.flatten_dict(read_start(config, checkpoint), sep="/")
    flat |= {path: _placed(value, flat[path]) for path, value in found.items()}
    return dataclasses.replace(state, params=traverse_util.unflatten_dict(flat, sep="/"))
  if checkpoint:
    fresh = {"params": state.params, "model_state": state.model_state}
    loaded = restore_variables(checkpoint, fresh, config.init.allow_missing)
    return dataclasses.replace(state, params=loaded["params"], model_state=loaded["model_state"])
  if backbone:
    clip = load_clip(backbone)
    kind = config.model.backbone.kind
    from_clip = getattr(KINDS[kind], "from_clip", None)
    if from_clip is None:
      able = ", ".join(repr(name) for name, kind in KINDS.items() if hasattr(kind, "from_clip"))
      raise ValueError(
        f"init.backbone: model.backbone.kind={kind!r} cannot start from a CLIP, but {able} can."
      )
    params = from_clip(config.model, clip.model.config, clip.variables, backbone)
    placed = jax.tree.map(_placed, params, state.params["backbone"])
    return dataclasses.replace(state, params={**state.params, "backbone": placed})
  return state


def _placed(value: Any, like: jax.Array) -> jax.Array:
  # From NumPy: arrays of this process cannot be moved to the devices of others.
  return jax.device_put(np.asarray(value), like.sharding)
