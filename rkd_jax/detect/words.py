"""From words that somebody types to the rows of the zero-shot classifier."""

import threading
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float

from rkd_jax.files.untrusted.reading import shown
from rkd_jax.frozen.clip import FrozenClip
from rkd_jax.records.class_names import check_chosen, clean_name, nearest
from rkd_jax.vocabulary import class_embeddings as class_embeddings_lib
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings

# Numbers of rows that detectors are compiled for.
_SIZES = (32, 256, 2048, 16384)
# Of a word, in characters: far more than CLIP's 77 tokens can hold.
_LONGEST = 500
# Embeddings that are kept, 2 kB each.
_MOST_KNOWN = 50_000


def padded(
  rows: Float[np.ndarray, "c e"],
) -> tuple[Float[np.ndarray, "p e"], Bool[np.ndarray, "p"]]:
  """The rows with zeros behind them, and which are rows: of few lengths for all vocabularies."""
  count = len(rows)
  size = next((size for size in _SIZES if size >= count), -(-count // _SIZES[-1]) * _SIZES[-1])
  valid = np.arange(size) < count
  return np.pad(rows, [(0, size - count), (0, 0)]), valid


class Words:
  """Where the embeddings of words come from: a text tower, a file of class embeddings, or both.

  With a text tower any word has an embedding, which is computed once; without it those of the file
  have.  Several threads may ask.

  Attributes:
    stored: the file's, the detector's own vocabulary; None where there is none.
  """

  def __init__(
    self,
    width: int,
    stored: ClassEmbeddings | None = None,
    clip: Callable[[], FrozenClip] | None = None,
    remedy: str = "",
    missing: str = "",
  ):
    """`width` is that of the detector's embeddings; `clip` opens the text tower when it is needed;
    `remedy` says how to get one; `missing` is a file of class embeddings that was not found.

    Raises:
      ValueError: the file's embeddings have another width.
    """
    self.stored, self.has_clip = stored, clip is not None
    self._width, self._open, self._remedy = width, clip, remedy
    self._missing = missing
    self._clip: FrozenClip | None = None
    self._known: dict[tuple[tuple[str, ...], str], np.ndarray] = {}
    self._lock = threading.Lock()
    if stored is not None:
      self._check_width(stored.embeddings, "The class embeddings")

  def own(self) -> ClassEmbeddings:
    """The detector's own vocabulary.

    Raises:
      ValueError: it has none with names.
    """
    if self.stored is None or self.stored.names is None:
      raise ValueError(
        "The detector has no vocabulary of its own"
        f"{f' ({self._missing} is not there)' if self._missing else ''}: say what to look for, as "
        "in ['cat', 'dog'] or --classes='cat, dog', and give a CLIP or --class_embeddings."
      )
    return self.stored

  def embed(
    self, words: str | Sequence[str], templates: str | Sequence[str] | None = None
  ) -> ClassEmbeddings:
    """The words with their embeddings; a text holds several, separated by commas.

    `templates` are prompts with {} for the word; by default those of the detector's vocabulary.

    Raises:
      ValueError: no word, one that comes twice, is too long, or has no embedding.
    """
    given = words.split(",") if isinstance(words, str) else words
    names = tuple(filter(None, map(clean_name, given)))
    check_chosen(names, "The list of words")
    if long := next((name for name in names if len(name) > _LONGEST), None):
      raise ValueError(
        f"{shown(repr(long), 60)} has {len(long):,} characters: a word or a short phrase is meant, "
        f"of at most {_LONGEST}; separate several with commas."
      )
    if not self.has_clip:
      return self._looked_up(names, templates)
    if templates is None:
      templates = (self.stored and self.stored.templates) or class_embeddings_lib.TEMPLATE
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    with self._lock:
      clip = self.clip()
      new = [name for name in names if (templates, name) not in self._known]
      if new:
        rows = class_embeddings_lib.embed_classes(clip, new, templates)
        if len(self._known) + len(new) > _MOST_KNOWN:
          self._known.clear()
          rows, new = class_embeddings_lib.embed_classes(clip, names, templates), names
        self._known |= {(templates, name): row for name, row in zip(new, rows)}
      found = np.stack([self._known[templates, name] for name in names])
    return ClassEmbeddings(found, names, templates)

  def _looked_up(
    self, names: tuple[str, ...], templates: str | Sequence[str] | None
  ) -> ClassEmbeddings:
    own = self.own()
    if templates is not None:
      raise ValueError(f"Templates are for a CLIP that embeds words. {self._remedy}")
    known = {clean_name(name): row for row, name in enumerate(own.names or ())}
    for name in names:
      if name not in known:
        near = nearest(name, known)
        remedy = "Its vocabulary is closed." if own.is_closed else self._remedy
        raise ValueError(
          f"{name!r} is none of the {len(known)} words that this detector has embeddings for"
          f"{f'; the nearest are {near}' if near else ''}. {remedy}"
        )
    return own._replace(embeddings=own.embeddings[[known[name] for name in names]], names=names)

  def clip(self) -> FrozenClip:
    """The text tower, opened when it is first needed.

    Raises:
      ValueError: there is none, or it is not that of the class embeddings.
    """
    if self._clip is None:
      if self._open is None:
        raise ValueError(f"There is no CLIP here. {self._remedy}")
      clip = self._open()
      self._check_clip(clip)
      self._clip = clip
    return self._clip

  def _check_clip(self, clip: FrozenClip) -> None:
    """Raises ValueError for another CLIP than that of the stored embeddings, as far as is known."""
    if clip.embedding_dim != self._width:
      self._check_width(np.zeros((1, clip.embedding_dim), np.float32), "The CLIP")
    if self.stored is not None:
      class_embeddings_lib.check_same_clip(self.stored, clip)

  def _check_width(self, rows: Float[np.ndarray, "c e"], what: str) -> None:
    if rows.shape[1] != self._width:
      raise ValueError(
        f"{what}: embeddings are {rows.shape[1]} wide, the detector's "
        f"(model.classifier.embedding_dim) {self._width}: use those of the CLIP that it was "
        "trained with."
      )
