import json
from pathlib import Path

import numpy as np
import pytest

from rkd_jax.models.clip.tokenizer import END, START, Tokenizer, tokenize

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "clip_tokenizer.npz")
TEXTS = json.loads(GOLDEN["texts"].tobytes())


def has_literal_mark(text: str) -> bool:
  return any(mark in text.lower() for mark in ("<|startoftext|>", "<|endoftext|>"))


def test_rows_equal_the_original():
  plain = [i for i, text in enumerate(TEXTS) if not has_literal_mark(text)]
  assert len(plain) == len(TEXTS) - 4
  np.testing.assert_array_equal(
    tokenize([TEXTS[i] for i in plain], truncate=True), GOLDEN["rows"][plain]
  )


def test_literal_marks_are_ordinary_text():
  texts = ["a <|endoftext|> b", "a <|startoftext|> b", "a <end_of_text> b", "a <start_of_text> b"]
  for row in tokenize(texts):
    assert (row == START).sum() == (row == END).sum() == 1


def test_too_long_texts_are_named():
  for text, too_long in zip(TEXTS, GOLDEN["too_long"]):
    if too_long:
      with pytest.raises(ValueError, match=f"'{text[:20]}.*is too long for context length 77"):
        tokenize(text)
  # 75 ids and two marks fill the row exactly.
  assert tokenize("cat " * 75)[0, -1] == END
  assert tokenize("cat " * 76, truncate=True)[0, -1] == END


def test_compact_vocabulary_keeps_the_end_mark_largest():
  names = ["striped red star", "dotted blue box"]
  tokenizer = Tokenizer.for_texts([f"a photo of a {name}" for name in names], context_length=12)
  rows = tokenizer(["a photo of a dotted red box", "blue star"])
  assert rows.dtype == np.int32 and rows.shape == (2, 12)
  assert tokenizer.vocabulary_size == len(tokenizer.ids) < 20
  np.testing.assert_array_equal(rows.argmax(-1), [8, 3])
  assert rows.max() == tokenizer.vocabulary_size - 1
  full = tokenize("blue star", 12)[0]
  np.testing.assert_array_equal(tokenizer.ids[rows[1, :4]], full[:4])


def test_unknown_words_are_named():
  tokenizer = Tokenizer.for_texts(["a red star"])
  with pytest.raises(ValueError, match=r"'a green star'.*'green' is not in"):
    tokenizer("a green star")


def test_round_trip_through_plain_values():
  for tokenizer in (Tokenizer(9), Tokenizer.for_texts(["a red star"], 9)):
    again = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    np.testing.assert_array_equal(again("a red star"), tokenizer("a red star"))
    assert again.vocabulary_size == tokenizer.vocabulary_size


def test_ids_without_marks_are_refused():
  with pytest.raises(ValueError, match="end with 49406, 49407"):
    Tokenizer(8, [3, 5])
  with pytest.raises(ValueError, match="increase strictly"):
    Tokenizer(8, [5, 3, START, END])
