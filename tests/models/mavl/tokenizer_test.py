import json

import numpy as np
import pytest

from rkd_jax.models.mavl.tokenizer import Tokenizer, pad_rows

# "Ġ" is how the byte-level encoding writes a space.
MERGES = ["a l", "al l", "Ġ d", "o g", "Ġd og", "Ġ c", "a t", "Ġc at"]


@pytest.fixture
def files(tmp_path):
  """A vocabulary laid out as roberta-base's: special tokens first, then bytes, then merges."""
  tokens = ["<s>", "<pad>", "</s>", "<unk>", *"acdglotvery_", "Ġ"]
  tokens += [merge.replace(" ", "") for merge in MERGES] + ["<mask>"]
  vocabulary, merges = tmp_path / "vocab.json", tmp_path / "merges.txt"
  vocabulary.write_text(json.dumps({token: i for i, token in enumerate(dict.fromkeys(tokens))}))
  merges.write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
  return vocabulary, merges


def ids(files, *tokens):
  vocabulary = json.loads(files[0].read_text())
  return [vocabulary[token] for token in tokens]


def test_words_keep_their_leading_space_and_rows_their_marks(files):
  tokens = Tokenizer(*files)(["all dog", "cat_dog", "all cat dog"])
  rows = [ids.tolist()[: valid.sum()] for ids, valid in zip(*tokens)]
  assert rows[0] == ids(files, "<s>", "all", "Ġdog", "</s>")
  assert rows[1] == ids(files, "<s>", "c", "at", "_", "d", "og", "</s>")
  assert rows[2] == ids(files, "<s>", "all", "Ġcat", "Ġdog", "</s>")
  assert tokens.ids.shape == (3, 8)
  assert (tokens.ids[~tokens.valid] == 1).all()


def test_a_query_that_is_too_long_is_named(files):
  tokenizer = Tokenizer(*files, max_length=6)
  assert tokenizer(["all dog dog dog"]).valid.sum() == 6
  with pytest.raises(ValueError, match=r"'all dog dog dog dog'.*7 tokens.*takes 6"):
    tokenizer(["all dog dog dog dog"])


def test_other_files_are_refused(files):
  files[0].write_text(json.dumps({"<s>": 0, "</s>": 1, "<pad>": 2}))
  files[1].write_text("#version: 0.2\n")
  with pytest.raises(ValueError, match=r"<pad> with id 1: give vocab.json of roberta-base"):
    Tokenizer(*files)
  files[0].write_text("[]")
  with pytest.raises(ValueError, match="no byte-pair vocabulary"):
    Tokenizer(*files)


def test_the_vocabulary_of_another_model_is_refused(files):
  size = len(json.loads(files[0].read_text()))
  Tokenizer(*files, size=size)
  with pytest.raises(ValueError, match=rf"has {size} tokens, 50,265 are expected.*roberta-base"):
    Tokenizer(*files, size=50265)
  tokens = {**json.loads(files[0].read_text())}
  tokens |= {f"filler{i}": i for i in range(len(tokens), 50265)}
  files[0].write_text(json.dumps(tokens))
  with pytest.raises(ValueError, match="other ones than roberta-base"):
    Tokenizer(*files, size=50265)


def test_missing_files_are_named(files):
  files[1].unlink()
  with pytest.raises(
    FileNotFoundError, match=r"merges.txt' is no file: .*rkd-jax download roberta-base"
  ):
    Tokenizer(*files)


def test_rows_are_padded_to_a_multiple_of_eight():
  tokens = pad_rows([[0, 5, 2], [0] * 9])
  np.testing.assert_array_equal(tokens.valid.sum(1), [3, 9])
  assert tokens.ids.shape == (2, 16)
  assert tokens.ids[0, 3:].tolist() == [1] * 13
