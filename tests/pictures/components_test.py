"""The report page: self-contained, complete, escaped; the terminal table."""

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image, ImageColor
from rkd_jax.pictures.report import Row

from rkd_jax.pictures import report
from rkd_jax.pictures.draw import BASE_COLOUR


def result(novel, base, whole):
  return {"AP50_novel": novel, "AP50_base": base, "AP50_all": whole}


ROWS = [
  Row("Base", [result(30.0, 94.0, 77.0)]),
  Row("RKD", [result(70.04, 92.0, 86.0)]),
  Row("RKD + ILS", [result(69.98, None, 86.5)]),
  Row("RKD, longer", [result(99.0, 99.0, 99.0)], control=True),
]


class Page(HTMLParser):
  """Tags, text and image sources of a page; complains about unbalanced tags."""

  VOID = {"meta", "img", "br"}

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.sources, self.strong, self.text = [], [], [], [], ""
    self.feed(text)
    assert not self.open

  def handle_starttag(self, tag, attributes):
    self.tags.append(tag)
    if tag == "img":
      self.sources.append(dict(attributes)["src"])
    if tag not in self.VOID:
      self.open.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "strong" in self.open:
      self.strong.append(data)
    if "style" not in self.open:
      self.text += data


def write(tmp_path, **options):
  path = tmp_path / "new" / "report.html"
  content = {
    "title": "Demo",
    "rows": ROWS,
    "curves": {"base": [{"step": 0, "kind": "box", "loss": 1.0}]},
    "predictions": [],
    "similarities": {"CLIP": np.eye(2), "RKD": np.eye(2)},
    "similarity_names": ["cat", "owl"],
    "notes": [],
  }
  report.write_report(path, **{**content, **options})
  return path.read_text(encoding="utf-8")


def test_terminal_table():
  assert report.format_table(ROWS).splitlines() == [
    "AP50 (%)",
    "-" * 43,
    "method                 novel   base    all",
    "-" * 43,
    "Base                    30.0   94.0*  77.0",
    "RKD                     70.0*  92.0   86.0",
    "RKD + ILS               70.0*     –   86.5*",
    "RKD, longer (control)   99.0   99.0   99.0",
    "-" * 43,
  ]


def test_several_seeds_give_mean_and_sample_deviation():
  rows = [
    Row("Base", [result(10, 20, 30), result(14, 20, 30)]),
    Row("RKD", [result(20, 20, None)]),
  ]
  table = report.format_table(rows)
  # Two values at distance 4: mean 12, standard deviation 2·√2.
  assert "12.0 ± 2.8" in table
  assert "Mean ± standard deviation over 2 seeds." in table


def test_a_single_row_has_no_best():
  assert "*" not in report.format_table(ROWS[:1])


def test_page_is_self_contained_and_marks_the_best(tmp_path):
  text = write(tmp_path)
  page = Page(text)
  assert page.strong == ["94.0", "70.0", "70.0", "86.5"]
  assert "script" not in page.tags and "link" not in page.tags
  assert not re.search(r"https?://|url\(|@import", text)


def test_page_shows_every_section(tmp_path):
  image = np.full((16, 24, 3), 200, np.uint8)
  boxes = np.array([[2, 2, 9, 9], [0, 0, 5, 5]])
  found = boxes, np.array([0.8, 0.1]), np.array([1, 0])
  pictures = report.prediction_row(
    image, np.array([[2, 2, 10, 10]]), [1], {"RKD <x>": found}, ["cat", "owl"], novel=["owl"]
  )
  assert list(pictures) == ["Ground truth", "RKD <x>"]
  page = Page(write(tmp_path, predictions=[pictures, pictures], notes=["5 < 6 & more"]))
  assert len(page.sources) == 4 + 1 + 1
  for source in page.sources:
    header, data = source.split(",")
    assert header == "data:image/png;base64"
    Image.open(io.BytesIO(base64.b64decode(data))).verify()
  drawn = Image.open(io.BytesIO(base64.b64decode(page.sources[1].split(",")[1])))
  np.testing.assert_array_equal(np.asarray(drawn), pictures["RKD <x>"])
  for text in ("5 < 6 & more", "RKD <x>", "Region similarities", "Training curves"):
    assert text in page.text


def test_the_best_predictions_above_the_threshold_are_drawn():
  """13 of 14 beside each other are sure enough; the first 12 of them are drawn."""
  image = np.full((64, 300, 3), 200, np.uint8)
  left = np.arange(14) * 20
  boxes = np.stack([left, np.full(14, 40), left + 15, np.full(14, 60)], axis=1)
  found = boxes, np.array([0.9] * 13 + [0.4]), np.zeros(14, int)
  none = np.zeros((0, 4)), np.zeros(0, int)
  pictures = report.prediction_row(image, *none, {"RKD": found}, ["cat"], [])
  assert (pictures["Ground truth"] == 200).all()
  factor = pictures["RKD"].shape[1] // 300
  bottom = pictures["RKD"][60 * factor, left * factor + 7 * factor]
  drawn = (bottom == np.array(ImageColor.getrgb(BASE_COLOUR))).all(-1)
  assert drawn.tolist() == [True] * 12 + [False] * 2


def test_names_are_escaped(tmp_path):
  rows = [Row("<b>RKD</b>", [result(1, 2, 3)])]
  page = Page(write(tmp_path, title="<script>x</script>", rows=rows))
  assert "script" not in page.tags and "b" not in page.tags
  assert "<b>RKD</b>" in page.text and "<script>x</script>" in page.text


def test_same_arguments_same_page(tmp_path):
  curves = {"base": [{"step": step, "kind": "box", "loss": 1.0 / (1 + step)} for step in range(30)]}
  assert write(tmp_path, curves=curves) == write(tmp_path, curves=curves)


def test_bad_rows_are_refused(tmp_path):
  with pytest.raises(ValueError, match="at least one row"):
    report.format_table([])
  with pytest.raises(ValueError, match="same method name"):
    report.format_table([ROWS[0], ROWS[0]])
  with pytest.raises(ValueError, match="row 'RKD': a result lacks 'AP50_novel'"):
    write(tmp_path, rows=[Row("RKD", [{"AP50_base": 1.0}])])
