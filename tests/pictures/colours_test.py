"""Colours: stable, seen on any image, with text that can be read."""

import numpy as np
import pytest
from PIL import ImageColor

from rkd_jax.pictures import colours

NAMES = ("person", "red kite", "猫", "кот", "x" * 100, "")


def test_a_name_has_one_colour_for_ever():
  assert colours.class_colour("person") == colours.class_colour("Person") == "#a95c00"
  assert colours.class_colour("caf\u00e9") == colours.class_colour("cafe\u0301")
  assert colours.class_colour("\udc80") == colours.class_colour("\udc80")
  assert len({colours.class_colour(f"class {i}") for i in range(100)}) > 95


@pytest.mark.parametrize("name", NAMES)
def test_a_colour_is_seen_on_black_and_white_and_its_text_is_read(name):
  colour = colours.class_colour(name)
  assert min(colours.contrast(colour, other) for other in ("black", "white")) > 2
  assert colours.contrast(colour, colours.text_on(colour)) > 4.5


def test_text_is_black_on_light_and_white_on_dark():
  assert colours.text_on("#ffe066") == "black" and colours.text_on("#102a83") == "white"
  assert colours.contrast("black", "white") == pytest.approx(21)


def test_neighbouring_instances_are_far_apart():
  own = np.array([ImageColor.getrgb(c) for c in colours.instance_colours(12)], float)
  assert np.linalg.norm(own[1:] - own[:-1], axis=1).min() > 90
