"""Random classes that are none of the vocabulary, with names and numbers of their own."""

import sys

import official_files
import official_imagenet
import pytest

from rkd_jax.data import builder
from rkd_jax.data.imagenet21k_random import imagenet21k_random
from rkd_jax.records.sources import open_source

LVIS_NAMES = tuple(name for name, *_ in official_files.LVIS_CLASSES)


@pytest.fixture
def root(tmp_path):
  official_imagenet.write_wordnet(tmp_path)
  official_imagenet.write_imagenet(tmp_path / "imagenet")
  return tmp_path


def _make(root, vocabulary=LVIS_NAMES, classes=2, **settings):
  return imagenet21k_random.Imagenet21kRandom(
    data_dir=root / "built",
    imagenet=root / "imagenet",
    wordnet=root / "dict/data.noun",
    vocabulary=vocabulary,
    classes=classes,
    **settings,
  )


def test_classes_are_numbered_among_themselves(root):
  built = builder.prepare(_make(root))
  source = open_source(root / "built", "imagenet21k_random/plain", "train")
  # Cats and bats, also those of baseball, have names of the vocabulary; both cranes have one name.
  assert source.class_names == ("tench", "crane")
  assert source.base == source.novel == ()
  assert source[0].image_id == 14407640010026 and source[0].labels.tolist() == [0]
  assert [record.labels.tolist() for record in source] == [[0], [1]]
  names = (built.data_path / imagenet21k_random.NAMES_FILE).read_text()
  assert names.splitlines() == list(source.class_names)


def test_the_draw_depends_on_the_seed(root):
  def draw(seed):
    return _make(root, vocabulary=("emu",), classes=3, seed=seed)

  draws = [draw(seed) for seed in range(20)]
  synsets = [made.settings["synsets"] for made in draws]
  assert synsets == [draw(seed).settings["synsets"] for seed in range(20)]
  assert all(own == sorted(own) for own in synsets)
  # Of both bats one has no images; both cranes are drawn, but never together.
  sets = {frozenset(made.splits["train"].class_names) for made in draws}
  assert all(len(names) == 3 for names in sets) and len(sets) > 1
  assert frozenset.union(*sets) == {"tench", "crane", "cat", "bat"}
  assert {"n02012849", "n03126707"} < {synset for own in synsets for synset in own}


@pytest.mark.parametrize("name", ["TRUE_CAT", "true cat", "cat (pet)", "Cat"])
def test_any_lemma_of_a_synset_excludes_it(root, name):
  names = _make(root, vocabulary=(name,), classes=3).splits["train"].class_names
  assert sorted(names) == ["bat", "crane", "tench"]


def test_five_times_the_vocabulary_unless_there_are_less(root):
  with pytest.raises(ValueError, match=r"only 4 synsets with a name of their own.*5 are asked for"):
    _make(root, vocabulary=("emu",), classes=None)
  with pytest.raises(ValueError, match="classes is 0"):
    _make(root, classes=0)


def test_the_command_line_takes_names_or_annotations(root, monkeypatch, capsys):
  official_files.write_lvis(root / "lvis", root / "coco")
  (root / "names.txt").write_text("\n".join(LVIS_NAMES))
  for flag in (f"--annotations={root}/lvis/lvis_v1_val.json", f"--names=@{root}/names.txt"):
    command = f"x --data_dir={root}/built --imagenet={root}/imagenet --classes=2 --dry_run"
    arguments = [*command.split(), f"--wordnet={root}/dict/data.noun", flag]
    monkeypatch.setattr(sys, "argv", arguments)
    imagenet21k_random.main()
    out = capsys.readouterr().out
    assert "2 classes of 6 synsets" in out and "0 are not in" in out
    assert "3 have a name of the vocabulary" in out
    assert "train: 2 images of 2 synsets and 2 classes" in out
