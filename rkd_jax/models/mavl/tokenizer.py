"""Text to token rows, as RoBERTa does it: byte-level byte-pair encoding between two marks.

The vocabulary is not part of this project.  `vocab.json` and `merges.txt` of the model
`roberta-base` are what the released checkpoint was trained with.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tokenizers
from jaxtyping import Bool, Int

from rkd_jax.models.mavl.roberta import PADDING

START, END = "<s>", "</s>"
_SPECIAL = (START, "<pad>", END, "<unk>", "<mask>")
# Of roberta-base: how many tokens it has, and the first words after the special ones.
_ROBERTA_SIZE = 50265
_FIRST = {".": 4, "Ġthe": 5, ",": 6, "Ġto": 7, "Ġand": 8, "Ġof": 9, "<mask>": 50264}
# Rows are padded to a multiple of this, so that few lengths are compiled.
_ROUND = 8


class Tokens(NamedTuple):
  """Token rows, padded to a common length; `valid` is false on padding."""

  ids: Int[np.ndarray, "n t"]
  valid: Bool[np.ndarray, "n t"]


class Tokenizer:
  """Makes token rows from the two files of a RoBERTa vocabulary.

  Args:
    vocabulary: path of vocab.json, ids by token.
    merges: path of merges.txt.
    max_length: most tokens of a row, the marks included.
    size: the number of tokens that the model knows, which the vocabulary must have; None for any.

  Raises:
    FileNotFoundError: naming the missing file and the command that fetches it.
    ValueError: the files are no such vocabulary, or one of another model.
  """

  def __init__(
    self,
    vocabulary: str | os.PathLike,
    merges: str | os.PathLike,
    max_length: int = 512,
    size: int | None = None,
  ):
    for path, name in ((vocabulary, "vocab.json"), (merges, "merges.txt")):
      if not os.path.isfile(path):
        raise FileNotFoundError(
          f"{os.fspath(path)!r} is no file: expected {name} of roberta-base, which "
          "`rkd-jax download roberta-base` fetches."
        )
    try:
      model = tokenizers.models.BPE.from_file(os.fspath(vocabulary), os.fspath(merges))
    except Exception as error:  # The library raises nothing more particular.
      raise ValueError(
        f"{os.fspath(vocabulary)} and {os.fspath(merges)} are no byte-pair vocabulary ({error}); "
        "expected vocab.json and merges.txt of roberta-base."
      ) from error
    self._encoder = tokenizers.Tokenizer(model)
    self._encoder.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    ids = {token: self._encoder.token_to_id(token) for token in _SPECIAL[:3]}
    if None in ids.values() or ids["<pad>"] != PADDING:
      raise ValueError(
        f"{os.fspath(vocabulary)} has the special tokens {ids}; expected all of them, and <pad> "
        f"with id {PADDING}: give vocab.json of roberta-base."
      )
    found = self._encoder.get_vocab_size()
    named = {token: self._encoder.token_to_id(token) for token in _FIRST}
    if size not in (None, found) or (found == _ROBERTA_SIZE and named != _FIRST):
      raise ValueError(
        f"{os.fspath(vocabulary)} has {found:,} tokens, {size or _ROBERTA_SIZE:,} are expected, or"
        " other ones than roberta-base: the model would read other words. Give vocab.json of"
        " roberta-base."
      )
    known = [token for token in _SPECIAL if self._encoder.token_to_id(token) is not None]
    self._encoder.add_special_tokens(known)
    self._marks = ids[START], ids[END]
    self._max_length = max_length

  def __call__(self, texts: Sequence[str]) -> Tokens:
    """Token rows: start mark, ids, end mark, padding.

    Raises:
      ValueError: a text has too many tokens; it is named.
    """
    start, end = self._marks
    rows = []
    for text in texts:
      rows.append([start, *self._encoder.encode(text, add_special_tokens=False).ids, end])
      if len(rows[-1]) > self._max_length:
        raise ValueError(
          f"the query {text[:60]!r}... has {len(rows[-1])} tokens with its marks; the text encoder "
          f"takes {self._max_length}: shorten it."
        )
    return pad_rows(rows)


def pad_rows(rows: Sequence[Sequence[int]]) -> Tokens:
  """Token rows of different lengths, padded to a multiple of 8."""
  length = -(-max(map(len, rows)) // _ROUND) * _ROUND
  ids = np.full((len(rows), length), PADDING, np.int32)
  for target, row in zip(ids, rows, strict=True):
    target[: len(row)] = row
  lengths = np.array([len(row) for row in rows])
  return Tokens(ids, np.arange(length) < lengths[:, None])
