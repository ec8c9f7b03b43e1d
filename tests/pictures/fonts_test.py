"""Text in any script: glyphs and no empty boxes, measured as it is drawn."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from rkd_jax.pictures import fonts

# Two words of each script, of which no glyph may be alike.
WORDS = {
  "Latin": ("é", "ß"),
  "Cyrillic": ("ж", "ю"),
  "Greek": ("ψ", "ξ"),
  "Chinese": ("猫", "狗"),
  "Japanese": ("ネ", "い"),
  "Korean": ("곰", "양"),
  "Arabic": ("ق", "ط"),
  "Hebrew": ("א", "ש"),
  "Devanagari": ("क", "ख"),
  "Thai": ("ก", "ข"),
  "Tamil": ("க", "ண"),
}


def drawn(text, size=24):
  picture = Image.new("L", (400, 60), 0)
  fonts.draw(ImageDraw.Draw(picture), (10, 40), text, size, "white")
  return np.asarray(picture)


@pytest.mark.parametrize("script", WORDS)
def test_two_letters_of_a_script_look_different_and_are_no_empty_boxes(script):
  missing = drawn("\U000e0fff")
  first, second = map(drawn, WORDS[script])
  assert first.any() and (first != second).any()
  assert (first != missing).any() and (second != missing).any()


def test_without_the_packages_and_the_system_the_rest_is_still_drawn(monkeypatch):
  monkeypatch.setattr(fonts, "_PACKAGES", {"no_such_fonts": 0})
  monkeypatch.setattr(fonts, "_SYSTEM", ("/no/such/folder",))
  fonts.face_of.cache_clear()
  try:
    assert (drawn("猫") == drawn("狗")).all() and drawn("猫").any()
    assert (drawn("ж") != drawn("ю")).any()
  finally:
    fonts.face_of.cache_clear()


def test_fonts_of_the_system_are_found_and_what_is_none_is_passed_over(monkeypatch, tmp_path):
  (cjk,) = {face for face in fonts.faces() if "CJK" in face[0].name}
  (tmp_path / "a.ttf").write_text("no font")
  (tmp_path / "sub").mkdir()
  (tmp_path / "sub" / "b.TTC").symlink_to(cjk[0])
  monkeypatch.setattr(fonts, "_PACKAGES", {})
  monkeypatch.setattr(fonts, "_SYSTEM", (str(tmp_path),))
  fonts.face_of.cache_clear()
  try:
    assert fonts.face_of("猫") == (tmp_path / "sub" / "b.TTC", 0)
  finally:
    fonts.face_of.cache_clear()


def test_a_text_of_several_scripts_is_as_long_as_it_is_measured():
  text = "кот 猫 قطة 0.93"
  assert len(fonts.runs(text, 24)) >= 3
  columns = np.flatnonzero(drawn(text).any(axis=0))
  assert columns[-1] - 10 == pytest.approx(fonts.length(text, 24), abs=4)


def test_marks_stay_with_their_letter():
  (run,) = fonts.runs("क्षि", 24)
  assert run[0] == "क्षि"


def test_lines_have_one_height_whatever_their_letters():
  heights = {fonts.extent(text, 20)[1:] for text in ("x", "Äg", "lamp")}
  assert len(heights) == 1
  width, above, below = fonts.extent("猫", 20)
  assert width == pytest.approx(20, abs=1) and above <= 21 and below <= 7
  assert fonts.extent("", 20)[0] == 0


def test_a_long_text_loses_its_middle():
  assert fonts.shortened("abcdefghij", 20, 1000) == "abcdefghij"
  short = fonts.shortened("abcdefghij" * 5, 20, 100)
  assert "…" in short and short[0] == "a" and short[-1] == "j" and fonts.length(short, 20) <= 100
