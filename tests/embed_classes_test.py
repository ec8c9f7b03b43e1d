"""The command that makes files of class embeddings."""

import json
import sys

import numpy as np
import pytest
import tiny_clip

from rkd_jax import embed_classes
from rkd_jax.frozen.clip import load_clip
from rkd_jax.vocabulary import class_embeddings, prompts

CATEGORIES = [{"id": 7, "name": "dog"}, {"id": 3, "name": "red cat"}]


@pytest.fixture
def run(monkeypatch, capsys):
  """Calls the command; returns (exit code, stdout, stderr)."""

  def call(*arguments):
    monkeypatch.setattr(sys, "argv", ["embed_classes", *map(str, arguments)])
    code = 0
    try:
      embed_classes.main()
    except SystemExit as end:
      code = end.code
    out, err = capsys.readouterr()
    return code, out, err

  return call


@pytest.fixture
def annotations(tmp_path):
  path = tmp_path / "coco.json"
  path.write_text(json.dumps({"categories": CATEGORIES}))
  return path


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory):
  return tiny_clip.write_run(tmp_path_factory.mktemp("clip"))


def test_embeds_names_with_the_text_tower_of_a_run(run, clip_run, tmp_path):
  file = tmp_path / "classes.npz"
  code, out, _ = run("--clip", clip_run, "--names", "red cat, dog", "--output", file)
  assert code == 0 and "2 classes, 8 dimensions" in out
  stored = class_embeddings.load(file)
  assert stored.names == ("red cat", "dog") and stored.templates == ("a photo of a {}",)
  expected = class_embeddings.embed_classes(load_clip(clip_run), ["red cat", "dog"])
  np.testing.assert_allclose(stored.embeddings, expected, atol=1e-6)

  run("--clip", clip_run, "--names", "dog", "--template", "one {}", "--output", file)
  other = class_embeddings.load(file)
  assert other.names == ("dog",) and other.templates == ("one {}",)
  assert np.abs(other.embeddings[0] - expected[1]).max() > 1e-3


def test_annotations_give_the_names_by_category_id(run, clip_run, annotations, tmp_path):
  file = tmp_path / "classes.npz"
  assert run("--clip", clip_run, "--annotations", annotations, "--output", file)[0] == 0
  assert class_embeddings.load(file).names == ("red cat", "dog")


def test_rows_of_a_bare_matrix_get_their_names(run, annotations, tmp_path):
  rows = np.arange(8, dtype=np.float16).reshape(2, 4)
  np.save(tmp_path / "published.npy", rows)
  file = tmp_path / "named.npz"
  code, *_ = run(
    "--embeddings", tmp_path / "published.npy", "--annotations", annotations, "--output", file
  )
  assert code == 0
  stored = class_embeddings.load(file)
  np.testing.assert_array_equal(
    class_embeddings.select(stored, ["dog", "red cat"], file), rows[::-1].astype(np.float32)
  )
  # A file that has names is read by them.
  code, *_ = run("--embeddings", file, "--names=dog", "--output", tmp_path / "dog.npz")
  assert code == 0
  np.testing.assert_array_equal(class_embeddings.load(tmp_path / "dog.npz").embeddings, rows[1:])


def test_lvis_category_list_with_synonyms(run, clip_run, tmp_path):
  """The list alone, as in the category-info files; underscores read as spaces."""
  path = tmp_path / "info.json"
  categories = [
    {"id": 2, "name": "red_cat", "synonyms": ["red_cat", "cat"], "image_count": 5},
    {"id": 1, "name": "dog", "synonyms": ["dog"]},
  ]
  path.write_text(json.dumps(categories))
  file = tmp_path / "classes.npy"
  arguments = ("--clip", clip_run, "--annotations", path, "--synonyms", "--spaces")
  assert run(*arguments, "--normalize", "--output", file)[0] == 0
  stored = class_embeddings.load(file)
  assert stored.names == ("dog", "red_cat")
  expected = class_embeddings.embed_classes(
    load_clip(clip_run), ["dog", "red cat"], synonyms=[["dog"], ["red cat", "cat"]], normalize=True
  )
  np.testing.assert_allclose(stored.embeddings, expected, atol=1e-6)
  np.testing.assert_allclose(np.linalg.norm(stored.embeddings, axis=1), 1, atol=1e-5)


def test_synonyms_of_a_file(run, clip_run, tmp_path):
  synonyms, file = tmp_path / "synonyms.json", tmp_path / "classes.npz"
  synonyms.write_text(json.dumps([["cat", "red cat"], ["dog"]]))
  arguments = ("--clip", clip_run, "--names", "cat, dog", f"--synonyms={synonyms}")
  assert run(*arguments, "--output", file)[0] == 0
  expected = class_embeddings.embed_classes(
    load_clip(clip_run), ["cat", "dog"], synonyms=[["cat", "red cat"], ["dog"]]
  )
  np.testing.assert_allclose(class_embeddings.load(file).embeddings, expected, atol=1e-6)
  for content, message in (
    ([["cat"]], "expected a list with 2 lists"),
    ([["cat"], []], r"entry 1 (dog) is [], expected a list of at least one text"),
    ([["cat"], "dog"], "entry 1 (dog) is 'dog'"),
  ):
    synonyms.write_text(json.dumps(content))
    code, _, err = run(*arguments, "--output", file)
    assert code == 1 and "synonyms.json" in err and message in err


def test_categories_without_synonyms_are_named(run, annotations, tmp_path):
  arguments = ("--clip=DIR", "--annotations", annotations, "--synonyms")
  code, _, err = run(*arguments, "--output", tmp_path / "classes.npz")
  assert code == 1 and "category 3 (red cat): 'synonyms' is None, expected a list" in err


def test_an_ensemble_is_stored_with_its_templates(run, clip_run, tmp_path, monkeypatch):
  monkeypatch.setitem(prompts.ENSEMBLES, "vild", ("a {}", "{article} photo of {}"))
  file = tmp_path / "classes.npz"
  arguments = ("--clip", clip_run, "--names", "dog", "--ensemble=vild")
  assert run(*arguments, "--output", file)[0] == 0
  stored = class_embeddings.load(file)
  assert stored.templates == ("a {}", "{article} photo of {}")
  expected = class_embeddings.embed_classes(load_clip(clip_run), ["dog"], ("a {}", "a photo of {}"))
  np.testing.assert_allclose(stored.embeddings, expected, atol=1e-6)


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--names=a,b"], "either --clip"),
    (["--clip=DIR", "--embeddings=F.npy", "--names=a"], "either --clip"),
    (["--clip=DIR", "--names=a", "--synonyms"], "--synonyms needs a file"),
    (["--clip=DIR"], "either --names or --annotations"),
    (["--clip=DIR", "--names= , "], "--names is empty"),
    (["--clip=DIR", "--names=cat, dog, cat"], "'cat' more than once"),
    (["--clip=/nowhere", "--names=cat"], "/nowhere has no config.json"),
    (["--clip=DIR", "--annotations=/nowhere.json"], "Cannot read /nowhere.json"),
  ],
)
def test_bad_arguments_are_one_clear_line(run, tmp_path, arguments, message):
  code, _, err = run(*arguments, f"--output={tmp_path / 'out.npz'}")
  assert code == 1
  assert message in err and err.count("\n") == 1
  assert not (tmp_path / "out.npz").exists()


def test_a_matrix_with_another_number_of_rows_is_refused(run, annotations, tmp_path):
  np.save(tmp_path / "m.npy", np.zeros((3, 4), np.float32))
  code, _, err = run(
    "--embeddings", tmp_path / "m.npy", "--annotations", annotations, "--output", tmp_path / "o.npz"
  )
  assert code == 1 and "3 rows for 2 class names" in err
