"""Which synset LVIS' name of one is, from the database files of WordNet."""

import official_imagenet
import pytest

from rkd_jax.data.imagenet_lvis import wordnet


@pytest.fixture
def folder(tmp_path):
  official_imagenet.write_wordnet(tmp_path)
  return tmp_path / "dict"


def test_senses_are_numbered_in_the_order_of_the_line(folder):
  senses = wordnet.load_senses(folder / "index.noun")
  assert senses["crane"] == (3126707, 2012849) and len(senses) == 10
  assert wordnet.offset_of("crane.n.01", senses, "lvis.json") == 3126707
  assert wordnet.offset_of("crane.n.02", senses, "lvis.json") == 2012849
  assert wordnet.offset_of("Tinca_tinca.n.01", senses, "lvis.json") == 1440764
  assert wordnet.wnid(1440764) == "n01440764"


@pytest.mark.parametrize("name", ["crane.n.03", "stop_sign.n.01", "crane.v.01"])
def test_what_is_no_sense_of_a_noun_is_none(folder, name):
  senses = wordnet.load_senses(folder / "index.noun")
  assert wordnet.offset_of(name, senses, "lvis.json") is None


@pytest.mark.parametrize("name", ["crane", "crane.n", "crane.n.00", "crane.n.one"])
def test_other_names_are_refused(name):
  with pytest.raises(ValueError, match=r"lvis\.json: synset '.*' is not of the form 'dog\.n\.01'"):
    wordnet.offset_of(name, {"crane": (1,)}, "lvis.json")


def test_lemmas_are_as_written_with_the_usual_one_first(folder):
  lemmas = wordnet.load_lemmas(folder / "data.noun")
  assert lemmas[1440764] == ("tench", "Tinca_tinca")
  assert lemmas[131018] == ("bat", "at-bat", "turn") and len(lemmas) == 8


@pytest.mark.parametrize(
  "load, right, wrong",
  [
    (wordnet.load_senses, "index.noun", "data.noun"),
    (wordnet.load_lemmas, "data.noun", "index.noun"),
  ],
)
def test_another_file_is_refused_with_its_line(folder, load, right, wrong):
  with pytest.raises(ValueError, match=rf"{wrong}, line 2: not the format of dict/{right}"):
    load(folder / wrong)
  with pytest.raises(ValueError, match=f"nowhere.*should be dict/{right}"):
    load(folder / "nowhere")
  cut = (folder / right).read_text().rstrip()[: -len("02012849 ")] if right == "index.noun" else ""
  (folder / right).write_text(cut)
  with pytest.raises(ValueError, match="cut off"):
    load(folder / right)
