"""Text to token rows, as CLIP does it.

A text is repaired (ftfy), HTML-unescaped twice, its white space collapsed, and lower-cased, then
split by CLIP's byte-pair encoding.  Rows are start mark, ids, end mark, zeros.

One difference from the original: the literal marks "<|startoftext|>" and "<|endoftext|>" inside a
text are ordinary characters here, so no caption can move the position that the model reads.
"""

import functools
import html
import re
from collections.abc import Iterable, Mapping, Sequence

import ftfy
import instant_clip_tokenizer
import numpy as np
from jaxtyping import Int

START = 49406
END = 49407
VOCABULARY_SIZE = 49408

# The library's own literal marks, which it would read as START and END.  Cutting after the bracket,
# where the encoding starts a new word anyway, makes them ordinary text.
_LIBRARY_MARK = re.compile(r"(?<=<)(?=start_of_text>|end_of_text>)")


@functools.cache
def _byte_pair_encoder() -> instant_clip_tokenizer.Tokenizer:
  return instant_clip_tokenizer.Tokenizer()


def clean(text: str) -> str:
  """The normalisation CLIP applies to a text before encoding it."""
  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return re.sub(r"\s+", " ", text).strip().lower()


def encode(text: str) -> list[int]:
  """Byte-pair ids of a text, without start and end marks."""
  encoder = _byte_pair_encoder()
  return [i for part in _LIBRARY_MARK.split(clean(text)) for i in encoder.encode(part)]


class Tokenizer:
  """Makes token rows of a fixed length, over CLIP's whole vocabulary or a part of it.

  With `ids`, the sorted byte-pair ids to keep, tokens are indices into `ids`: a small model trained
  on few words then has a small embedding table.  START and END must be among them; being the
  largest, they come last, so that the end mark stays the largest token of each row.
  """

  def __init__(self, context_length: int = 77, ids: Sequence[int] | None = None):
    self.context_length = context_length
    self.ids = None if ids is None else np.asarray(ids, np.int32)
    if context_length < 2:
      raise ValueError(f"context_length is {context_length}; the two marks alone need 2")
    if self.ids is not None:
      if self.ids[-2:].tolist() != [START, END] or (np.diff(self.ids) <= 0).any():
        raise ValueError(
          f"ids must increase strictly and end with {START}, {END}; found {self.ids.tolist()}"
        )
      self._index = {int(bpe_id): index for index, bpe_id in enumerate(self.ids)}

  @classmethod
  def for_texts(cls, texts: Iterable[str], context_length: int = 77) -> "Tokenizer":
    """A tokenizer over just the ids that `texts` use."""
    used = {bpe_id for text in texts for bpe_id in encode(text)}
    return cls(context_length, sorted(used | {START, END}))

  @property
  def vocabulary_size(self) -> int:
    return VOCABULARY_SIZE if self.ids is None else len(self.ids)

  def __call__(self, texts: str | Sequence[str], truncate: bool = False) -> Int[np.ndarray, "n t"]:
    """Token rows, int32.

    Raises:
      ValueError: a text is too long (unless `truncate`, which keeps its beginning and the end mark)
        or has a word outside the kept ids; the text and the word are named.
    """
    texts = [texts] if isinstance(texts, str) else texts
    rows = np.zeros((len(texts), self.context_length), np.int32)
    for row, text in zip(rows, texts):
      bpe_ids = [START, *encode(text), END]
      if len(bpe_ids) > self.context_length:
        if not truncate:
          raise ValueError(
            f"text {text!r} is too long for context length {self.context_length}: it has"
            f" {len(bpe_ids)} tokens with its marks; shorten it or pass truncate=True"
          )
        bpe_ids = [*bpe_ids[: self.context_length - 1], END]
      row[: len(bpe_ids)] = bpe_ids if self.ids is None else self._remap(bpe_ids, text)
    return rows

  def _remap(self, bpe_ids: Sequence[int], text: str) -> list[int]:
    for bpe_id in bpe_ids:
      if bpe_id not in self._index:
        word = _byte_pair_encoder().decode([bpe_id]).strip()
        raise ValueError(
          f"text {text!r}: {word!r} is not in this model's vocabulary of {len(self.ids)} tokens;"
          " use words it was trained on, or a model with the full vocabulary"
        )
    return [self._index[bpe_id] for bpe_id in bpe_ids]

  def to_dict(self) -> dict[str, object]:
    """Plain values for storage beside a checkpoint; `from_dict` undoes it."""
    ids = None if self.ids is None else self.ids.tolist()
    return {"context_length": self.context_length, "ids": ids}

  @classmethod
  def from_dict(cls, values: Mapping[str, object]) -> "Tokenizer":
    return cls(values["context_length"], values["ids"])


def tokenize(
  texts: str | Sequence[str], context_length: int = 77, truncate: bool = False
) -> Int[np.ndarray, "n t"]:
  """Token rows over CLIP's whole vocabulary; see `Tokenizer.__call__`."""
  return Tokenizer(context_length)(texts, truncate)
