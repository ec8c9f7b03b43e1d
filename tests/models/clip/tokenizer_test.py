import functools
import gzip
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rkd_jax.models.clip import tokenizer as module
from rkd_jax.models.clip.tokenizer import END, START, Tokenizer, clean, encode

GOLDEN = np.load(Path(__file__).parents[2] / "golden" / "clip_tokenizer.npz")
TEXTS = json.loads(GOLDEN["texts"].tobytes())

tokenize = Tokenizer()


def has_literal_mark(text: str) -> bool:
  return any(mark in text.lower() for mark in ("<|startoftext|>", "<|endoftext|>"))


def test_rows_equal_the_original():
  plain = [i for i, text in enumerate(TEXTS) if not has_literal_mark(text)]
  assert len(plain) == len(TEXTS) - 4
  np.testing.assert_array_equal(
    tokenize([TEXTS[i] for i in plain], truncate=True), GOLDEN["rows"][plain]
  )


# Of other characters the two know different versions of Unicode.
_ASSIGNED = st.characters(exclude_categories=("Cn", "Co", "Cs"))


@functools.cache
def _other_implementation():
  return pytest.importorskip("instant_clip_tokenizer").Tokenizer()


@settings(max_examples=500, deadline=None)
@given(st.text(_ASSIGNED) | st.text("abStreVmLd'07½é日🙂ſİ!<|>&;_ \n\u0301"))
@example("it's we'VE 1,000 ½ naïve 日本 👨‍👩‍👧 _&amp;amp;_")
def test_ids_equal_those_of_another_implementation(text):
  assert encode(text) == _other_implementation().encode(clean(text))


def test_the_vocabulary_is_that_of_any_package_that_has_it(tmp_path, monkeypatch):
  merges = module._merges(5)
  assert merges[0] == ("i", "n")
  monkeypatch.setattr(sys, "path", [str(tmp_path)])
  with pytest.raises(FileNotFoundError, match="pip install --no-deps open_clip_torch"):
    module._merges(5)
  (tmp_path / "open_clip").mkdir()
  listed = "\n".join(["#version: 0.2", *map(" ".join, merges), "x y"])
  (tmp_path / "open_clip" / "bpe_simple_vocab_16e6.txt.gz").write_bytes(
    gzip.compress(listed.encode())
  )
  assert module._merges(5) == merges


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
  full = Tokenizer(12)("blue star")[0]
  np.testing.assert_array_equal(tokenizer.ids[rows[1, :4]], full[:4])


def test_unknown_words_are_named():
  tokenizer = Tokenizer.for_texts(["a red star"])
  with pytest.raises(ValueError, match=r"'a green star'.*'green' is not in"):
    tokenizer("a green star")
  with pytest.raises(ValueError, match=r"'a réd star'.*'ré' is not in"):
    tokenizer("a réd star")


def test_round_trip_through_plain_values():
  for tokenizer in (Tokenizer(9), Tokenizer.for_texts(["a red star"], 9)):
    again = Tokenizer(**json.loads(json.dumps(tokenizer.to_dict())))
    np.testing.assert_array_equal(again("a red star"), tokenizer("a red star"))
    assert again.vocabulary_size == tokenizer.vocabulary_size


def test_ids_without_marks_are_refused():
  with pytest.raises(ValueError, match="end with 49406, 49407"):
    Tokenizer(8, [3, 5])
  with pytest.raises(ValueError, match="increase strictly"):
    Tokenizer(8, [5, 3, START, END])
