import pytest

from rkd_jax.vocabulary.prompts import ENSEMBLES, fill


@pytest.mark.parametrize("name, count", [("imagenet80", 80), ("vild", 63)])
def test_published_lists_are_complete(name, count):
  templates = ENSEMBLES[name]
  assert len(templates) == len(set(templates)) == count
  for template in templates:
    assert template.count("{}") == 1 and template.endswith(".")
    assert fill(template, "cat").count("cat") == 1 and "{" not in fill(template, "cat")


def test_articles_fit_the_name():
  assert fill("a photo of {article} {}.", "apple") == "a photo of an apple."
  assert fill("a photo of {article} {}.", "Dog") == "a photo of a Dog."
  # Only the placeholders are filled in: names may hold braces.
  assert fill("the {}", "{} {article}") == "the {} {article}"


def test_vild_prompts_are_sentences_as_in_its_code():
  prompts = [fill(template, "apple") for template in ENSEMBLES["vild"]]
  assert prompts[:7] == [
    "There is an apple in the scene.",
    "There is the apple in the scene.",
    "This is a photo of an apple in the scene.",
    "This is a photo of the apple in the scene.",
    "This is a photo of one apple in the scene.",
    "itap of an apple.",
    "itap of my apple.",
  ]
  assert prompts[-5:] == [
    "This is the cartoon apple.",
    "This is an embroidered apple.",
    "This is the embroidered apple.",
    "This is a painting of the apple.",
    "This is a painting of a apple.",
  ]
  rest = [prompt for prompt in prompts if not prompt.startswith("This is ")]
  assert len(rest) == 5 and "itap of the apple." in rest


def test_a_template_without_a_place_for_the_name():
  with pytest.raises(ValueError, match=r"'a photo' has no \{\}"):
    fill("a photo", "cat")
