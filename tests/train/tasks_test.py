"""What a config trains, and what it needs for that."""

import types

import ml_collections
import pytest

from rkd_jax.train import tasks


def test_an_unknown_task_is_named():
  with pytest.raises(ValueError, match="task is 'captioner'; expected 'detector' or 'clip'"):
    tasks.make_task(ml_collections.ConfigDict({"task": "captioner"}), "nowhere")


def test_the_tokenizer_knows_the_words_of_all_captions():
  source = [types.SimpleNamespace(captions=own) for own in ((), ("a cat", "a dog"), ("a cat",))]
  tokenizer = tasks.caption_tokenizer(source, 6)
  assert tokenizer.vocabulary_size == 5
  # Three words by their ids in CLIP's vocabulary, then start and end; zeros fill the row.
  assert tokenizer(["a cat", "a dog"]).tolist() == [[3, 0, 2, 4, 0, 0], [3, 0, 1, 4, 0, 0]]
