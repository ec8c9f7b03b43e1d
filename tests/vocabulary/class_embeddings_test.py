import jax
import numpy as np
import pytest

from rkd_jax.frozen.clip import FrozenClip
from rkd_jax.models.clip.model import Clip, ClipConfig
from rkd_jax.models.clip.tokenizer import Tokenizer
from rkd_jax.vocabulary import class_embeddings

NAMES = ("red star", "blue box", "green disc")
ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@pytest.fixture
def saved(tmp_path):
  path = tmp_path / "classes.npz"
  class_embeddings.save(path, NAMES, "a {}", ROWS)
  return path


@pytest.fixture(scope="module")
def tiny():
  """A CLIP that knows the words of NAMES."""
  tokenizer = Tokenizer.for_texts([f"a photo of an a {name}" for name in NAMES], 10)
  model = Clip(
    ClipConfig(
      embed_dim=8,
      image_resolution=8,
      vision_layers=1,
      vision_width=8,
      vision_heads=1,
      vision_patch_size=8,
      context_length=10,
      vocab_size=tokenizer.vocabulary_size,
      transformer_width=16,
      transformer_heads=2,
      transformer_layers=1,
    )
  )
  tokens = tokenizer("red")
  shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32), tokens)
  rng = np.random.default_rng(0)
  variables = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), shapes)
  return FrozenClip(model, variables, tokenizer)


def test_embeds_each_name_in_the_template(tiny):
  model, variables, tokenizer = tiny.model, tiny.variables, tiny.tokenizer
  rows = class_embeddings.embed_classes(tiny, NAMES)
  tokens = tokenizer([f"a photo of a {name}" for name in NAMES])
  expected = jax.jit(lambda v: model.apply(v, tokens, method="encode_text"))(variables)
  np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-6)
  assert not np.allclose(rows[0], rows[1])
  with pytest.raises(ValueError, match=r"has no \{\}"):
    class_embeddings.embed_classes(tiny, NAMES, "a photo")
  with pytest.raises(ValueError, match="no class names"):
    class_embeddings.embed_classes(tiny, ())


def unit(rows):
  return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_several_texts_count_alike(tiny):
  """The mean of unit vectors; not of embeddings, whose lengths differ."""
  one, two = (class_embeddings.embed_classes(tiny, NAMES, t) for t in ("a {}", "photo of {}"))
  both = class_embeddings.embed_classes(tiny, NAMES, ("a {}", "photo of {}"))
  np.testing.assert_allclose(both, (unit(one) + unit(two)) / 2, rtol=1e-4, atol=1e-5)
  assert not np.allclose(np.linalg.norm(one, axis=1), np.linalg.norm(two, axis=1), rtol=0.01)
  normalized = class_embeddings.embed_classes(tiny, NAMES, ("a {}", "photo of {}"), None, True)
  np.testing.assert_allclose(normalized, unit(both), rtol=1e-5)
  single = class_embeddings.embed_classes(tiny, NAMES, "a {}", normalize=True)
  np.testing.assert_allclose(single, unit(one), rtol=1e-4, atol=1e-5)


def test_synonyms_stand_for_the_name(tiny):
  synonyms = [["star", "red star"], ["box"], ["green disc"]]
  rows = class_embeddings.embed_classes(tiny, NAMES, "a {}", synonyms)
  words = ("star", "red star", "box", "green disc")
  star, red_star, box, disc = unit(class_embeddings.embed_classes(tiny, words, "a {}"))
  expected = [(star + red_star) / 2, box, disc]
  np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-5)
  with pytest.raises(ValueError, match="2 lists for 3 classes"):
    class_embeddings.embed_classes(tiny, NAMES, "a {}", synonyms[:2])
  with pytest.raises(ValueError, match="of 'blue box': the list is empty"):
    class_embeddings.embed_classes(tiny, NAMES, "a {}", [["star"], [], ["disc"]])


def test_round_trip(saved):
  loaded = class_embeddings.load(saved)
  np.testing.assert_array_equal(loaded.embeddings, ROWS)
  assert loaded.names == NAMES and loaded.templates == ("a {}",)
  assert [path.name for path in saved.parent.iterdir()] == ["classes.npz"]


def test_npy_has_names_and_templates_beside_it(tmp_path):
  path = tmp_path / "classes.npy"
  class_embeddings.save(path, NAMES, ("a {}", "the {}"), ROWS)
  assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.json", "classes.npy"]
  np.testing.assert_array_equal(np.load(path), ROWS)
  loaded = class_embeddings.load(path)
  assert loaded.names == NAMES and loaded.templates == ("a {}", "the {}")
  np.save(path, ROWS[:2])
  with pytest.raises(ValueError, match="2 rows for 3 class names; make the file again"):
    class_embeddings.load(path)


def test_annotations_beside_an_npy_are_left_alone(tmp_path):
  annotations = tmp_path / "coco.json"
  annotations.write_text('{"categories": []}')
  with pytest.raises(ValueError, match=r"coco\.json holds something else; choose another name"):
    class_embeddings.save(tmp_path / "coco.npy", NAMES, "a {}", ROWS)
  assert annotations.read_text() == '{"categories": []}'
  np.save(tmp_path / "coco.npy", ROWS)
  assert class_embeddings.load(tmp_path / "coco.npy").names is None


def test_a_failed_save_leaves_the_old_file(saved, monkeypatch):
  def fail(*args, **kwargs):
    raise OSError("disk full")

  monkeypatch.setattr(np, "savez", fail)
  with pytest.raises(OSError, match="disk full"):
    class_embeddings.save(saved, NAMES, "a {}", ROWS + 1)
  monkeypatch.undo()
  np.testing.assert_array_equal(class_embeddings.load(saved).embeddings, ROWS)
  assert len(list(saved.parent.iterdir())) == 1


def test_rows_belong_to_the_names_of_the_file(saved):
  """Whoever asks: those that are given are for files that have none."""
  stored = class_embeddings.load(saved, NAMES[::-1])
  assert stored.names == NAMES
  rows = class_embeddings.select(stored, ("green disc", "red star"), saved)
  np.testing.assert_array_equal(rows, ROWS[[2, 0]])


def test_selecting_an_unknown_name_tells_the_nearest():
  rows = np.eye(3, dtype=np.float32)
  stored = class_embeddings.ClassEmbeddings(rows, ("Cat", "traffic light", "dog"), None)
  with pytest.raises(ValueError, match=r"no class 'traffic lights'.*'traffic light'.*--clip"):
    class_embeddings.select(stored, ["dog", "traffic lights"], "classes.npz")
  with pytest.raises(ValueError, match="none is near"):
    class_embeddings.select(stored, ["qqqqqq"], "classes.npz")


def test_bare_array_is_checked_by_its_rows(tmp_path):
  path = tmp_path / "classes.npy"
  np.save(path, ROWS.astype(np.float16))
  loaded = class_embeddings.load(path, NAMES)
  assert loaded.embeddings.dtype == np.float32 and loaded.names == NAMES
  assert class_embeddings.load(path).names is None
  with pytest.raises(ValueError, match="3 rows for 4 class names"):
    class_embeddings.load(path, (*NAMES, "one more"))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut short"])
def test_broken_files_are_named(tmp_path, content):
  path = tmp_path / "classes.npz"
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"classes\.npz: not a class-embedding file"):
    class_embeddings.load(path)


def test_values_that_are_not_finite_are_refused(tmp_path):
  rows = ROWS.copy()
  rows[1, 2] = np.nan
  with pytest.raises(ValueError, match="row 1"):
    class_embeddings.save(tmp_path / "classes.npz", NAMES, "a {}", rows)
  np.save(tmp_path / "classes.npy", rows)
  with pytest.raises(ValueError, match="row 1"):
    class_embeddings.load(tmp_path / "classes.npy")
  with pytest.raises(ValueError, match="2 names for 3"):
    class_embeddings.save(tmp_path / "classes.npz", NAMES[:2], "a {}", ROWS)


def test_closed_rows_are_orthonormal_and_always_the_same():
  rows = class_embeddings.closed_rows(5, 8)
  np.testing.assert_array_equal(rows @ rows.T, np.eye(5))
  assert rows.dtype == np.float32 and rows.shape == (5, 8)
  with pytest.raises(ValueError, match="0 classes in 8 dimensions"):
    class_embeddings.closed_rows(0, 8)


def test_more_closed_rows_than_dimensions_are_nearly_orthogonal():
  rows = class_embeddings.closed_rows(1203, 512)
  cosines = rows @ rows.T
  np.testing.assert_allclose(np.diag(cosines), 1, atol=1e-6)
  assert np.abs(cosines - np.diag(np.diag(cosines))).max() < 0.25
  np.testing.assert_array_equal(rows, class_embeddings.closed_rows(1203, 512))


def test_a_file_says_which_clip_its_rows_are_of_and_whether_it_is_closed(tmp_path, saved):
  path = tmp_path / "closed.npz"
  class_embeddings.save(path, NAMES, class_embeddings.CLOSED, ROWS, "somewhere")
  stored = class_embeddings.load(path)
  assert stored.is_closed and stored.clip == "somewhere"
  assert not class_embeddings.load(saved).is_closed and class_embeddings.load(saved).clip is None
