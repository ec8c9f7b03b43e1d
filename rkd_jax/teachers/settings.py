"""From settings to loaded teachers; the same in every process that takes part."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from rkd_jax.files import checksums, storage
from rkd_jax.frozen.clip import FrozenClip, RegionEncoder, load_clip
from rkd_jax.records.results import DTYPES, TeacherReader
from rkd_jax.records.sources import Source, open_source
from rkd_jax.teachers.detector import DetectorProposer, StoredProposals
from rkd_jax.teachers.images import Options
from rkd_jax.teachers.mavl import MvitProposer
from rkd_jax.teachers.owl_vit import OwlVit
from rkd_jax.teachers.pipeline import Encoder, clip_chooses, describe
from rkd_jax.teachers.proposals import Proposer
from rkd_jax.teachers.region_growing import RegionGrowing
from rkd_jax.vocabulary.class_embeddings import embed_classes


class ProposalSource(NamedTuple):
  """A proposer that a command can name: how it is made of some of the `Settings`.

  `hint` is a sentence for whoever left one of them out.
  """

  open: Callable[..., Proposer]
  settings: tuple[str, ...] = ()
  hint: str = ""


_MVIT = " `rkd-jax download mavl` and `rkd-jax download roberta-base` say how to get them."
_OWL_VIT = " `rkd-jax download owl-vit-b-32` fetches one."

SOURCES = {
  "regions": ProposalSource(RegionGrowing),
  "mvit": ProposalSource(MvitProposer, ("checkpoint", "vocabulary", "merges"), _MVIT),
  "rpn": ProposalSource(DetectorProposer, ("checkpoint",)),
  "owl_vit": ProposalSource(OwlVit, ("checkpoint", "owl_vit_config"), _OWL_VIT),
}


def _flag(text: str, default: Any = dataclasses.MISSING, choices: Sequence | None = None) -> Any:
  return dataclasses.field(default=default, metadata={"help": text, "choices": choices})


@dataclasses.dataclass(frozen=True)
class Settings:
  """What the commands are told; cheap to pickle.

  `options` decide the results, beside the teachers; each other field is a flag of its name.
  """

  options: Options
  data_dir: str = _flag("root folder of built data sets")
  dataset: str = _flag("such as shapes_ovd/scenes")
  clip: str = _flag("folder of a CLIP run, or published weights")
  proposals: str = _flag(f"{', '.join(SOURCES)}, or a folder of results", "regions")
  checkpoint: str | None = _flag("of the model that proposes", None)
  vocabulary: str | None = _flag("vocab.json of roberta-base, for mvit", None)
  merges: str | None = _flag("merges.txt of roberta-base, for mvit", None)
  owl_vit_config: str = _flag("Scenic's name of the model", "clip_b32")
  activation: str | None = _flag(
    "of published weights; see frozen/clip.py", None, ("quick_gelu", "gelu")
  )
  batch_size: int = _flag("crops per call of CLIP", 64)
  embedding_dtype: str = _flag("as stored", "float32", DTYPES)
  skip_bad_images: bool = _flag("empty results for unreadable images", True)


class Teachers(NamedTuple):
  """The first arguments of `precompute` for one split, and what a writer of results asks for."""

  source: Source
  proposer: Proposer
  encoder: Encoder
  class_embeddings: Float[np.ndarray, "c d"] | None
  embedding_dim: int
  metadata: dict[str, Any]


def open_teachers(settings: Settings, split: str) -> Teachers:
  """Opens the split and loads what has not been loaded yet in this process.

  Raises:
    ValueError: a setting is missing or wrong, or a file is not what it should be.
    ImportError: Scenic is needed and not installed.
    FileNotFoundError: a file is missing.
  """
  source = open_source(settings.data_dir, settings.dataset, split)
  proposer = make_proposer(settings, split)
  clip, encoder, checksum = _load_clip(settings)
  class_embeddings = embed_classes(clip, source.class_names) if clip_chooses(proposer) else None
  metadata = describe(proposer, settings.options, checksum, clip.model.config.activation)
  return Teachers(source, proposer, encoder, class_embeddings, clip.embedding_dim, metadata)


def make_proposer(settings: Settings, split: str) -> Proposer:
  """The proposer that `settings.proposals` names, loaded; raises what `open_teachers` does."""
  kind = settings.proposals
  if kind in SOURCES:
    missing = [name for name in SOURCES[kind].settings if getattr(settings, name) is None]
    if missing:
      raise ValueError(
        f"--proposals={kind} needs {', '.join(f'--{name}=...' for name in missing)}."
        f"{SOURCES[kind].hint}"
      )
    return _load_proposer(settings)
  if storage.path(kind).is_dir():
    return StoredProposals(TeacherReader(kind, split))  # pyright: ignore[reportReturnType]
  raise ValueError(
    f"--proposals={kind}: expected {', '.join(SOURCES)}, or the --output of another run; "
    "there is no such folder."
  )


@functools.lru_cache(maxsize=1)
def _load_proposer(settings: Settings) -> Proposer:
  source = SOURCES[settings.proposals]
  return source.open(*(getattr(settings, name) for name in source.settings))


@functools.lru_cache(maxsize=1)
def _load_clip(settings: Settings) -> tuple[FrozenClip, RegionEncoder, str]:
  """A CLIP, its image tower on all local devices, and what its weights are known by."""
  clip = load_clip(settings.clip, settings.activation)
  is_file = os.path.isfile(settings.clip)
  checksum = checksums.of_file(settings.clip) if is_file else checksums.of_arrays(clip.variables)
  encoder = RegionEncoder(clip, settings.batch_size, jax.local_devices())
  return clip, encoder, checksum
