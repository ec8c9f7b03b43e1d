import pytest

from rkd_jax.clip.prompts import ENSEMBLES, fill


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


def test_a_template_without_a_place_for_the_name():
  with pytest.raises(ValueError, match=r"'a photo' has no \{\}"):
    fill("a photo", "cat")
