import threading

import numpy as np
import pytest
import tiny_clip

from rkd_jax.detect.words import Words, padded
from rkd_jax.frozen.clip import load_clip
from rkd_jax.vocabulary.class_embeddings import ClassEmbeddings, embed_classes

TEXTS = ("a photo of a dog", "one red cat", "a photo of a cat", "a photo of a red dog")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
  return load_clip(tiny_clip.write_run(tmp_path_factory.mktemp("clip"), TEXTS))


@pytest.fixture
def stored(clip):
  rows = embed_classes(clip, ["dog", "cat"])
  return ClassEmbeddings(rows, ("dog", "cat"), ("a photo of a {}",))


@pytest.mark.parametrize("count, size", [(1, 32), (32, 32), (33, 256), (257, 2048), (16385, 32768)])
def test_vocabularies_have_few_sizes(count, size):
  rows, valid = padded(np.ones((count, 3), np.float32))
  assert rows.shape == (size, 3) and valid.sum() == count and valid[:count].all()
  assert (rows[:count] == 1).all() and (rows[count:] == 0).all()


def test_without_a_clip_words_are_looked_up(stored):
  words = Words(8, stored)
  found = words.embed("cat")
  assert found.names == ("cat",)
  np.testing.assert_array_equal(found.embeddings, stored.embeddings[1:])
  assert words.own() is stored


def test_with_a_clip_any_word_is_embedded_once(clip, stored, monkeypatch):
  words, asked = Words(8, stored, lambda: clip), []
  embed_texts = type(clip).embed_texts

  def counted(self, texts):
    asked.extend(texts)
    return embed_texts(self, texts)

  monkeypatch.setattr(type(clip), "embed_texts", counted)
  found = words.embed("red dog, cat")
  np.testing.assert_allclose(found.embeddings, embed_classes(clip, ["red dog", "cat"]), rtol=1e-6)
  asked.clear()
  again = words.embed([" cat ", "red dog"])
  assert again.names == ("cat", "red dog") and asked == []
  np.testing.assert_array_equal(again.embeddings, found.embeddings[::-1])
  assert words.embed("cat", "one red {}").templates == ("one red {}",)
  assert asked == ["one red cat"]


def test_several_threads_may_ask(clip):
  words, found = Words(8, None, lambda: clip), []
  ask = lambda name: found.append(words.embed(name).embeddings)  # noqa: E731
  threads = [threading.Thread(target=ask, args=("dog",)) for _ in range(8)]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  assert len(found) == 8 and all((rows == found[0]).all() for rows in found)


@pytest.mark.parametrize(
  "words, message",
  [
    ([], "The list of words is empty"),
    (" , ", "The list of words is empty"),
    ("cat, cat", "'cat' more than once"),
    ("cta", r"'cta' is none of the 2 words.*the nearest are 'cat'\. Get a CLIP"),
    ("red " * 5000, r"'red red.{50,60}\.\.\. has 19,999 characters: a word or a short phrase"),
  ],
)
def test_bad_words(stored, words, message):
  with pytest.raises(ValueError, match=message):
    Words(8, stored, remedy="Get a CLIP.").embed(words)


def test_what_needs_a_clip_or_a_vocabulary(clip, stored):
  with pytest.raises(ValueError, match=r"Templates are for a CLIP.* Get a CLIP"):
    Words(8, stored, remedy="Get a CLIP.").embed("cat", "the {}")
  with pytest.raises(ValueError, match=r"no vocabulary of its own \(gone\.npz is not there\)"):
    Words(8, missing="gone.npz").own()
  with pytest.raises(ValueError, match=r"'blue' is not in this model's vocabulary"):
    Words(8, stored, lambda: clip).embed("blue")


def test_a_clip_or_a_file_that_does_not_belong_to_the_detector(clip, stored):
  with pytest.raises(ValueError, match=r"8 wide, the detector's .* 16"):
    Words(16, stored)
  with pytest.raises(ValueError, match=r"The CLIP: embeddings are 8 wide, the detector's .* 16"):
    Words(16, None, lambda: clip).embed("cat")
  other = stored._replace(embeddings=-stored.embeddings)
  with pytest.raises(ValueError, match=r"is not the one.*'dog' they have a cosine of -1\.000"):
    Words(8, other, lambda: clip).embed("cat")
