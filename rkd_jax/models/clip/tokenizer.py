"""Text to token rows, as CLIP does it.

A text is repaired (ftfy), HTML-unescaped twice, its white space collapsed, and lower-cased, then
split by CLIP's byte-pair encoding.  Rows are start mark, ids, end mark, zeros.

One difference from the original: the literal marks "<|startoftext|>" and "<|endoftext|>" inside a
text are ordinary characters here, so no caption can move the position that the model reads.
"""

import functools
import gzip
import html
import re
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from pathlib import Path

import ftfy
import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import decoders, pre_tokenizers

START = 49406
END = 49407
VOCABULARY_SIZE = 49408

_WORD = r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"

# Packages that hold CLIP's list of merges, and in which file.  None of them is imported: the first
# two would need torch; the third, a tokenizer that was compiled for Pythons before 3.13 only, has
# the list as plain text in its binary.
_MERGES_IN = {
  "open_clip": "bpe_simple_vocab_16e6.txt.gz",
  "clip": "bpe_simple_vocab_16e6.txt.gz",
  "instant_clip_tokenizer": "instant_clip_tokenizer.*[do]",  # .pyd and .so
}
_FIRST_MERGES = b"i n\nt h\na n\n"


def _merges(count: int) -> list[tuple[str, ...]]:
  """The first merges of CLIP's list, which goes on beyond what its vocabulary has.

  Raises:
    FileNotFoundError: no installed package has the list; says which one to install.
  """
  for package, pattern in _MERGES_IN.items():
    spec = PathFinder.find_spec(package)
    for folder in (spec and spec.submodule_search_locations) or ():
      for file in Path(folder).glob(pattern):
        content = file.read_bytes() if file.suffix != ".gz" else gzip.decompress(file.read_bytes())
        if (start := content.find(_FIRST_MERGES)) >= 0:
          lines = content[start:].split(b"\n", count)[:count]
          return [tuple(line.decode().split()) for line in lines]
  raise FileNotFoundError(
    f"CLIP's byte-pair vocabulary is in none of the packages {', '.join(_MERGES_IN)};"
    " pip install --no-deps open_clip_torch==3.3.0 brings it, without torch."
  )


@functools.cache
def _byte_pair_encoder() -> tokenizers.Tokenizer:
  """CLIP's splitting into words, and its merges; the two marks in a text are no tokens to it."""
  letters = sorted(pre_tokenizers.ByteLevel.alphabet())
  merges = _merges(START - 2 * len(letters))
  tokens = [*letters, *(f"{letter}</w>" for letter in letters), *map("".join, merges)]
  ids = {token: index for index, token in enumerate(tokens)}
  encoder = tokenizers.Tokenizer(tokenizers.models.BPE(ids, merges, end_of_word_suffix="</w>"))
  encoder.pre_tokenizer = pre_tokenizers.Sequence(
    [
      pre_tokenizers.Split(tokenizers.Regex(_WORD), "removed", invert=True),
      pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
  )
  encoder.decoder = decoders.Sequence([decoders.Replace("</w>", ""), decoders.ByteLevel()])
  return encoder


def clean(text: str) -> str:
  """The normalisation CLIP applies to a text before encoding it."""
  text = html.unescape(html.unescape(ftfy.fix_text(text)))
  return re.sub(r"\s+", " ", text).strip().lower()


def encode(text: str) -> list[int]:
  """Byte-pair ids of a text, without start and end marks."""
  return _byte_pair_encoder().encode(clean(text)).ids


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
    """The arguments that make this tokenizer, as plain values for storage beside a checkpoint."""
    ids = None if self.ids is None else self.ids.tolist()
    return {"context_length": self.context_length, "ids": ids}
