"""Which records form the batches of a run, and their shapes, from the config."""

import dataclasses
import functools
from collections.abc import Mapping

import ml_collections
import numpy as np
from absl import logging

from rkd_jax.inputs.examples import BatchSpec, count_boxes
from rkd_jax.inputs.sampler import Repeats, Sampler, repeat_factors
from rkd_jax.records.joined import join
from rkd_jax.records.sources import Selection, Source, open_source, select

# The fields of a kind of batch in the config that say which records it takes, and how often; the
# others are those of its BatchSpec.
_SELECTION = ("dir", "name", "split", "teachers", "class_embeddings", "records")
_REPEATS = ("repeat_threshold", "repeat_form")
# Records of a split, or some of them, perhaps joined with the results of teachers.
AnySource = Source | Selection


@dataclasses.dataclass(frozen=True)
class Plan:
  """What the batches of a run are made of; they follow from it and the step (`batching`).

  Attributes:
    seed: of the order of records and of augmentation.
    schedule: kinds of successive steps, repeated for ever.
    sources: records of each kind.
    specs: shapes and augmentation of each kind; there may be more, such as 'eval'.
    repeats: repeat factors, for the kinds whose records come unevenly.
  """

  seed: int
  schedule: tuple[str, ...]
  sources: Mapping[str, AnySource]
  specs: Mapping[str, BatchSpec]
  repeats: Mapping[str, Repeats] = dataclasses.field(default_factory=dict)

  @functools.cached_property
  def sampler(self) -> Sampler:
    """Says which records each step reads, with the batch sizes and orientations of the specs."""
    kinds = set(self.schedule)
    sizes = {kind: (len(self.sources[kind]), self.specs[kind].batch_size) for kind in kinds}
    indices = {k: self.sources[k].index for k in kinds if self.specs[k].one_orientation}
    # Squares stand, as in the original's buckets.
    standing = {kind: index.heights >= index.widths for kind, index in indices.items()}
    return Sampler(self.seed, self.schedule, sizes, self.repeats, standing)

  def check(self) -> None:
    """Raises ValueError for records that would end training when they are drawn, and says how many
    have more pseudo boxes than are used.

    By the index, so that only doubtful records are read; those of earlier versions do not say how
    many boxes there are.
    """
    for kind in dict.fromkeys(self.schedule):
      source, spec = self.sources[kind], self.specs[kind]
      if most := spec.max_labels:
        more = int((source.index.num_pseudo_boxes > most).sum())
        if more:
          what = more, source.name, kind, most
          logging.warning(
            "%d images of %s have more pseudo boxes than data.%s.max_labels = %d.", *what
          )
      if kind != "box" or source.index.num_boxes is None:
        continue
      doubtful = np.flatnonzero(source.index.num_boxes > spec.max_boxes)
      counts = {i: count_boxes(source[int(i)], spec) for i in doubtful}
      if crowded := {i: count for i, count in counts.items() if count > spec.max_boxes}:
        most = sorted(crowded, key=crowded.__getitem__, reverse=True)[:3]
        shown = ", ".join(f"{source[int(i)].filename} has {crowded[i]} boxes" for i in most)
        raise ValueError(
          f"{len(crowded)} images of {source.name} have more boxes than data.{kind}.max_boxes = "
          f"{spec.max_boxes}: {shown}. Set it to {crowded[most[0]]}, or leave these images out."
        )


def make_plan(
  config: ml_collections.ConfigDict,
  sources: Mapping[str, AnySource] | None = None,
  specs: Mapping[str, BatchSpec] | None = None,
) -> Plan:
  """The plan of a config; its sources and specs are by default all that it names.

  Raises:
    ValueError: see `open_sources`.
  """
  sources = open_sources(config) if sources is None else sources
  specs = detector_specs(config) if specs is None else specs
  if "box" in sources and specs["box"].pseudo_labels:
    names, base = sources["box"].class_names, set(sources["box"].base)
    known = tuple(number for number, name in enumerate(names) if name in base)
    specs = {**specs, "box": dataclasses.replace(specs["box"], annotated=known)}
  repeats = {
    kind: Repeats(repeat_factors(source.index, own.repeat_threshold), own.repeat_form)
    for kind, source in sources.items()
    if (own := config.data[kind]).get("repeat_threshold")
  }
  return Plan(config.seed, tuple(config.data.schedule), sources, specs, repeats)


def pseudo_classes(source: AnySource, score: float) -> set[int]:
  """Numbers of the classes of all pseudo boxes with a score above a bound; reads all results."""
  found: set[int] = set()
  if (results := getattr(source, "results", None)) is not None:
    for row in np.flatnonzero(results.num_pseudo_boxes):
      result = results.at(row)
      kept = result["pseudo_boxes/scores"] > score
      found.update(result["pseudo_boxes/labels"][kept].tolist())
    return found
  for record in map(source.__getitem__, range(len(source))):
    found.update(record.pseudo_labels[record.pseudo_scores > score].tolist())
  return found


def place(data: ml_collections.ConfigDict, kind: str) -> tuple[str, str, str]:
  """Folder, data set and split of a kind of batch; `data` is `config.data`."""
  own = data[kind]
  return own.get("dir") or data.dir, own.get("name") or data.name, own.split


def open_sources(config: ml_collections.ConfigDict) -> dict[str, AnySource]:
  """The records of the kinds that the schedule names, joined with the teachers' results they need.

  Raises:
    ValueError: a data set or results are missing or do not fit, or no record is left.
  """
  return {kind: _open(config, kind) for kind in dict.fromkeys(config.data.schedule)}


def _open(config: ml_collections.ConfigDict, kind: str) -> AnySource:
  data, own = config.data, config.data[kind]
  source, rule = open_source(*place(data, kind)), own.get("records", "")
  regions = own.get("max_regions", 0) > 0
  labels = own.get("max_labels", 0) + own.get("pseudo_labels", 0) > 0 or rule == "pseudo_boxes"
  if (regions or labels) and not source.has_results:
    folder = own.get("teachers") or data.get("teachers")
    if not folder:
      raise ValueError(
        f"data.{kind} asks for {'regions' if regions else 'pseudo boxes'}, which frozen teachers "
        "find: run `python -m rkd_jax.precompute ...` on the records, and set "
        f"--config.data.teachers=FOLDER (or data.{kind}.teachers) to its --output."
      )
    embedding_dim = config.model.classifier.embedding_dim if regions else None
    source = join(source, folder, embedding_dim, labels, data.get("skip_missing_results", False))
  return select(source, rule)


def detector_specs(config: ml_collections.ConfigDict) -> dict[str, BatchSpec]:
  """BatchSpec of every kind in `config.data`, 'eval' included."""
  width = config.model.classifier.embedding_dim
  return {
    kind: BatchSpec(
      kind=kind,
      embedding_dim=width,
      **{k: v for k, v in config.data[kind].items() if k not in _SELECTION + _REPEATS},
    )
    for kind in {*config.data.schedule, "eval"}
  }
