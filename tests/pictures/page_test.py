"""The page: complete in itself, escaped, pictures as they were."""

import base64
import io

import numpy as np
from html_page import Page
from PIL import Image

from rkd_jax.pictures import page


def test_a_page_needs_nothing_else_and_escapes_its_title(tmp_path):
  file = tmp_path / "new" / "page.html"
  page.write_page(file, "<script>x</script> 猫", [page.section("<h>", "a & b", "<p>own</p>")])
  text = file.read_text(encoding="utf-8")
  found = Page(text)
  assert found.tags.count("script") == 1 and "<script>x</script> 猫" in found.text
  assert "<h>" in found.text and "a & b" in found.text and "own" in found.text
  assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_names_that_are_no_text_are_shown(tmp_path):
  page.write_page(tmp_path / "p.html", "bad \udc80 name", [])
  assert r"bad \udc80 name" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_small_pictures_are_exact_and_large_ones_jpeg():
  rng = np.random.default_rng(0)
  small = rng.integers(0, 256, (16, 24, 3)).astype(np.uint8)
  large = np.full((400, 500, 3), 99, np.uint8)

  def decoded(picture, **options):
    (source,) = Page(page.image(picture, "a <b>", **options)).sources
    kind, data = source.split(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as read:
      return kind, np.asarray(read)

  kind, found = decoded(small)
  assert kind == "data:image/png;base64"
  np.testing.assert_array_equal(found, small)
  kind, found = decoded(large)
  assert kind == "data:image/jpeg;base64" and np.abs(found.astype(int) - 99).max() <= 2
  assert decoded(large, kind="wide")[0] == "data:image/png;base64"
