"""What the loop trains: a task bundles initialisation, loss and data of a config.

The loop (train.py) is the same for CLIP and for every stage of the detector.
"""

import dataclasses
import functools
import itertools
import json
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np
from etils import epath

from rkd_jax import storage
from rkd_jax.checkpoint import latest_step
from rkd_jax.clip import class_embeddings as class_embeddings_lib
from rkd_jax.clip.load import TOKENIZER_FILE, init_clip, make_clip
from rkd_jax.clip.preprocess import normalize
from rkd_jax.clip.tokenizer import Tokenizer
from rkd_jax.inputs.examples import BatchSpec
from rkd_jax.inputs.repeats import repeat_factors
from rkd_jax.inputs.sampler import Repeats
from rkd_jax.inputs.sources import Source, open_source, select
from rkd_jax.losses.contrastive import contrastive_loss
from rkd_jax.models import rcnn
from rkd_jax.structures import Vocabulary
from rkd_jax.train.step import Loss, detector_loss

# The fields of a kind of batch in the config that say which records it takes, not their shapes.
_SELECTION = (
  "dir",
  "name",
  "class_embeddings",
  "split",
  "records",
  "repeat_threshold",
  "repeat_form",
)


@dataclasses.dataclass(frozen=True)
class Task:
  """A trainable problem.

  Attributes:
    init: key -> (params, model_state).
    loss: (params, model_state, constants, batch, key, kind) ->
      (loss, ({name: scalar}, model_state)); `kind` is static.
    constants: arrays the loss needs and training does not change.
    sources: records per kind of batch.
    specs: shapes and augmentation per kind of batch.
    repeats: repeat factors, for the kinds of batch whose records come unevenly.
  """

  init: Callable[[jax.Array], tuple[Any, Any]]
  loss: Loss
  constants: Any
  sources: Mapping[str, Source]
  specs: Mapping[str, BatchSpec]
  repeats: Mapping[str, Repeats] = dataclasses.field(default_factory=dict)


def make_task(config: ml_collections.ConfigDict, workdir: str) -> Task:
  """The task that `config.task` names."""
  if config.task == "detector":
    return detector_task(config)
  if config.task == "clip":
    return clip_task(config, workdir)
  raise ValueError(f"task is {config.task!r}; expected 'detector' or 'clip'.")


def place(data: ml_collections.ConfigDict, kind: str) -> tuple[str, str, str]:
  """Folder, data set and split of a kind of batch; `data` is `config.data`."""
  own = data[kind]
  return own.get("dir") or data.dir, own.get("name") or data.name, own.split


def open_sources(config: ml_collections.ConfigDict) -> dict[str, Source]:
  """The data sources of the kinds that the schedule names, less the records not asked for."""
  data = config.data
  return {
    kind: select(open_source(*place(data, kind)), data[kind].get("records", ""))
    for kind in dict.fromkeys(data.schedule)
  }


def box_repeats(config: ml_collections.ConfigDict, sources: Mapping[str, Source]) -> dict:
  """Repeat factors of the records of box batches, if `data.box.repeat_threshold` asks for them."""
  box = config.data.box
  if "box" not in sources or not box.repeat_threshold:
    return {}
  factors = repeat_factors(sources["box"].index, box.repeat_threshold)
  return {"box": Repeats(factors, box.repeat_form)}


def detector_specs(config: ml_collections.ConfigDict) -> dict[str, BatchSpec]:
  """BatchSpec of every kind in `config.data`, 'eval' included."""
  embedding_dim = config.model.classifier.embedding_dim
  specs = {}
  for kind in {*config.data.schedule, "eval"}:
    fields = {k: v for k, v in config.data[kind].items() if k not in _SELECTION}
    if kind != "eval":
      fields["embedding_dim"] = embedding_dim
    specs[kind] = BatchSpec(kind=kind, **fields)
  return specs


def load_vocabulary(config: ml_collections.ConfigDict, source: Source) -> Vocabulary:
  """Class embeddings of a data set's classes, checked against names and model width.

  Raises:
    ValueError: no such file, other classes, or another width than the model's.
  """
  base = set(source.base)
  return Vocabulary(
    embeddings=_class_embeddings(config.class_embeddings, "class_embeddings", source, config),
    has_boxes=np.array([name in base for name in source.class_names]),
    image_counts=_image_counts(config.image_counts, source),
  )


def _class_embeddings(
  path: str, key: str, source: Source, config: ml_collections.ConfigDict
) -> np.ndarray:
  if not path or not storage.path(path).exists():
    raise ValueError(
      f"{key}: there is no file {path!r}. Make one with "
      f"`python -m rkd_jax.clip.embed_classes`, or set config.{key} to a .npy of "
      f"{len(source.class_names)} rows in the order of the data set's classes."
    )
  embeddings = class_embeddings_lib.load(path, source.class_names).embeddings
  width = config.model.classifier.embedding_dim
  if embeddings.shape[1] != width:
    raise ValueError(
      f"{key} {path} are {embeddings.shape[1]} wide, "
      f"model.classifier.embedding_dim is {width}: set it to {embeddings.shape[1]}."
    )
  return embeddings


def training_vocabulary(
  config: ml_collections.ConfigDict, sources: Mapping[str, Source]
) -> Vocabulary:
  """The vocabulary of the box steps, with that of the image steps where it is another.

  Image steps have classes of their own if `data.image.class_embeddings` says so (the strict
  setting); else their data set must have the classes of the other.

  Raises:
    ValueError: as `load_vocabulary`, or the classes of the two data sets differ.
  """
  main = sources["box"] if "box" in sources else next(iter(sources.values()))
  vocabulary = load_vocabulary(config, main)
  if "image" not in sources:
    return vocabulary
  path = config.data.image.get("class_embeddings")
  if path:
    key = "data.image.class_embeddings"
    return vocabulary.replace(
      image_embeddings=_class_embeddings(path, key, sources["image"], config)
    )
  _check_same_classes(main, sources["image"])
  return vocabulary


def _check_same_classes(first: Source, second: Source) -> None:
  pairs = itertools.zip_longest(first.class_names, second.class_names)
  for number, (a, b) in enumerate(pairs):
    if a != b:
      raise ValueError(
        f"{first.name} and {second.name} have different classes: class {number} is "
        f"{_named(a)} in the one and {_named(b)} in the other "
        f"({len(first.class_names)} and {len(second.class_names)} classes). Build them from the "
        "same list of classes, or give the image steps embeddings of their own classes: "
        "data.image.class_embeddings."
      )


def _named(name: str | None) -> str:
  return "missing" if name is None else repr(name)


def _image_counts(path: str, source: Source) -> np.ndarray | None:
  """Number of training images per class, in the order of the data set's classes.

  From the file, or else what the data set says, if it does.
  """
  if not path:
    counts = getattr(source, "image_counts", None)
    return None if counts is None else np.array(counts, np.float32)
  try:
    entries = json.loads(storage.path(path).read_text())
    counts = {entry["name"]: float(entry["image_count"]) for entry in entries}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise ValueError(
      f"image_counts: {path!r} is not a JSON list of objects with name and image_count "
      f"({type(error).__name__}: {error})."
    ) from error
  missing = [name for name in source.class_names if name not in counts]
  if missing:
    raise ValueError(f"image_counts: {path!r} has no entry for {', '.join(missing[:5])}.")
  return np.array([counts[name] for name in source.class_names], np.float32)


def detector_task(config: ml_collections.ConfigDict) -> Task:
  """Base, RKD, ILS and weight transfer: which terms exist follows from the config."""
  model = rcnn.build(config)
  loss_config = config.loss
  sources = open_sources(config)
  vocabulary = training_vocabulary(config, sources)
  if loss_config.federated_classes and vocabulary.image_counts is None:
    raise ValueError(
      "loss.federated_classes draws classes by their number of training images: set "
      "config.image_counts to the file that has them (lvis_ovd and coco_ovd records say it)."
    )

  def init(key):
    return model.init(key, *rcnn.dummy_inputs(config))["params"], {}

  loss = detector_loss(model, loss_config)
  repeats = box_repeats(config, sources)
  return Task(init, loss, vocabulary, sources, detector_specs(config), repeats)


def clip_task(config: ml_collections.ConfigDict, workdir: str) -> Task:
  """Contrastive training of both CLIP towers on captioned images.

  The tokenizer keeps only the tokens that the captions use; it is written beside
  the checkpoints, because the text tower means nothing without it.
  """
  sources = open_sources(config)
  file = epath.Path(workdir) / TOKENIZER_FILE
  if latest_step(workdir) is not None:
    tokenizer = Tokenizer.from_dict(json.loads(file.read_text()))
  else:
    tokenizer = caption_tokenizer(sources["caption"], config.clip.context_length)
    file.write_text(json.dumps(tokenizer.to_dict()))
  model = make_clip(config.clip.to_dict(), tokenizer)
  fields = {k: v for k, v in config.data.caption.items() if k != "split"}
  # The same captions come back every epoch; cleaning and encoding a text is slow.
  tokenize = functools.lru_cache(100_000)(lambda text: tokenizer(text)[0])
  spec = BatchSpec(kind="caption", tokenizer=tokenize, **fields)

  def init(key):
    variables = init_clip(model, key)
    return variables["params"], {k: v for k, v in variables.items() if k != "params"}

  def loss(params, model_state, constants, batch, key, kind):
    del constants, key, kind
    (images, texts, scale), new_state = model.apply(
      {"params": params, **model_state},
      normalize(batch.images),
      batch.tokens,
      True,
      mutable=list(model_state),
    )
    value, accuracy = contrastive_loss(images, texts, scale, batch.tokens)
    return value, ({"accuracy": accuracy, "scale": scale}, new_state)

  return Task(init, loss, {}, sources, {"caption": spec})


def caption_tokenizer(source: Source, context_length: int) -> Tokenizer:
  """A tokenizer for the words of a data set's captions."""
  captions = {c for i in range(len(source)) for c in source[i].captions}
  return Tokenizer.for_texts(sorted(captions), context_length)
