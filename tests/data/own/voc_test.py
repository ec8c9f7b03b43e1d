"""Pascal VOC: golden boxes, splits, and what is said of files that are wrong or hostile."""

import numpy as np
import own_folders
import pytest

from rkd_jax.data.coco_json.annotations import load_annotations
from rkd_jax.data.own import voc

THING = """
  <object>
    <name>{name}</name>
    <difficult>{difficult}</difficult>
    <bndbox><xmin>{x}</xmin><ymin>5</ymin><xmax>20</xmax><ymax>30</ymax></bndbox>
  </object>"""


@pytest.fixture
def folder(tmp_path):
  return own_folders.write_voc(tmp_path, range(2))


def _load(folder, role="train", **settings):
  splits = voc.find(folder)
  files = voc.read(splits, dict.fromkeys(splits, folder), False, 10**6)[role]
  return load_annotations(files.json, files.images, **settings)


def _add(folder, number, more):
  (folder / "Annotations" / f"{number}.xml").write_text(own_folders.voc_xml(number, more))


def test_pixels_from_1_with_both_corners_become_coordinates(folder):
  (folder / "Annotations" / "0.xml").write_text(
    "<annotation><filename>0.png</filename><object><name>dog</name>"
    "<bndbox><xmin>1</xmin><ymin>3</ymin><xmax>64</xmax><ymax>3</ymax></bndbox></object>"
    "</annotation>"
  )
  found = _load(folder)
  # One row of pixels, from edge to edge.
  np.testing.assert_array_equal(found.images[0].boxes, [[0, 2, 64, 3]])
  assert (found.images[0].width, found.images[0].height) == (64, 32)
  assert found.notes == {"images whose XML has no size, measured": 1}
  assert found.class_names == ("dog",)


def test_a_corner_of_0_says_that_all_are_coordinates(folder):
  _add(folder, 0, THING.format(name="cat", difficult=0, x=0))
  found = _load(folder)
  np.testing.assert_array_equal(found.images[0].boxes[-1], [0, 5, 20, 30])
  np.testing.assert_array_equal(found.images[1].boxes, [[9, 9, 24, 24]])
  assert found.notes == {"boxes taken as pixels numbered from 0, since some corner is 0": 4}


def test_difficult_objects_are_crowds_and_truncated_ones_are_not(folder):
  _add(folder, 1, THING.format(name="dog", difficult=1, x=5))
  _add(
    folder, 0, "<object><truncated>1</truncated>" + THING.format(name="a", difficult=0, x=2)[11:]
  )
  found = _load(folder)
  assert found.images[1].is_crowd.tolist() == [False, True]
  assert not found.images[0].is_crowd.any()
  assert found.notes == {
    "difficult objects, neither trained on nor evaluated": 1,
    "truncated objects, taken like others": 1,
  }


def test_lists_divide_the_files(folder):
  lists = folder / "ImageSets" / "Main"
  lists.mkdir(parents=True)
  (lists / "train.txt").write_text("1\n")
  (lists / "val.txt").write_text("0 -1\nnot_there 1\n")
  (lists / "dog_train.txt").write_text("0 1\n")
  assert [image.filename for image in _load(folder).images] == ["JPEGImages/1.png"]
  validation = _load(folder, "validation")
  assert [image.filename for image in validation.images] == ["JPEGImages/0.png"]
  assert validation.class_names == _load(folder).class_names == ("cat", "dog", "kite")


def test_folders_divide_as_roboflow_has_them(tmp_path):
  for role, numbers in {"train": [0, 1], "valid": [3]}.items():
    own_folders.write_images(tmp_path / role, numbers)
    for number in numbers:
      (tmp_path / role / f"{number}.xml").write_text(own_folders.voc_xml(number))
  assert len(_load(tmp_path).images) == 2
  assert _load(tmp_path, "validation").images[0].filename == "valid/3.png"


def test_the_name_of_the_xml_finds_the_image_before_its_filename(folder):
  xml = own_folders.voc_xml(1).replace("1.png", "0.png")
  (folder / "Annotations" / "1.xml").write_text(xml)
  assert _load(folder).images[1].filename == "JPEGImages/1.png"
  (folder / "JPEGImages" / "1.png").rename(folder / "JPEGImages" / "other.png")
  (folder / "Annotations" / "1.xml").write_text(xml.replace("0.png", r"C:\data\other.png"))
  assert _load(folder).images[1].filename == "JPEGImages/other.png"


def test_all_problems_are_said_at_once_with_file_and_line(folder):
  (folder / "JPEGImages" / "1.jpg").write_bytes(b"")
  (folder / "Annotations" / "1.xml").write_text(
    own_folders.voc_xml(1).replace("<filename>1.png", "<filename>x")
  )
  (folder / "Annotations" / "2.xml").write_text("<annotation><object>")
  (folder / "Annotations" / "3.xml").write_text(own_folders.voc_xml(3))
  (folder / "Annotations" / "4.xml").write_text("<other/>")
  _add(
    folder,
    0,
    THING.format(name="cat", difficult="maybe", x=5)
    + THING.format(name="", difficult=0, x=5)
    + THING.format(name="dog", difficult=0, x="5px")
    + THING.format(name="kite", difficult=0, x=21)
    + "<object><name>cat</name></object>",
  )
  with pytest.raises(ValueError, match="has 9 problems") as raised:
    _load(folder)
  for text in (
    "0.xml, line 16 (cat): <difficult> is 'maybe', expected 0 or 1",
    "0.xml, line 21 (object without name): <object> has no <name>",
    "0.xml, line 29 (dog): <xmin> is '5px', expected a number of pixels",
    "0.xml, line 31 (kite): bbox [20, 4, 0, 26] has size 0 x 26",
    "0.xml, line 35 (cat): <object> has no <bndbox>",
    "1.xml: <filename> is 'x', and 1.jpg, 1.png all have the name of the XML",
    "2.xml is not valid XML: line 1: no element found",
    "3.xml: <filename> is '3.png', and no image has that name",
    "4.xml: the root is <other>",
  ):
    assert text in str(raised.value), text


def test_a_box_out_of_the_image_is_repaired_if_asked_to(folder):
  _add(folder, 1, THING.format(name="dog", difficult=0, x=5).replace(">30<", ">50<"))
  with pytest.raises(ValueError, match=r"1\.xml, line 10 \(dog\): bbox .* out of the image"):
    _load(folder)
  found = _load(folder, repair=True)
  np.testing.assert_array_equal(found.images[1].boxes[-1], [4, 4, 20, 32])
  assert found.repairs == {"boxes clipped to the image": 1}


@pytest.mark.parametrize(
  "declaration",
  [
    '<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">',
    '<!ENTITY a SYSTEM "file:///etc/hostname">',
    '<!ENTITY % a SYSTEM "http://localhost/a.dtd"> %a;',
  ],
)
def test_declared_entities_are_refused(folder, declaration):
  file = folder / "Annotations" / "0.xml"
  file.write_text(
    f"<!DOCTYPE x [{declaration}]>\n<annotation><filename>&a;</filename></annotation>"
  )
  with pytest.raises(ValueError, match=r"0\.xml, line 1: the XML declares an entity"):
    _load(folder)


def test_images_that_are_not_there_are_asked_for_with_the_places(tmp_path):
  (tmp_path / "Annotations").mkdir()
  (tmp_path / "Annotations" / "0.xml").write_text(own_folders.voc_xml(0))
  with pytest.raises(ValueError, match=r"no image belongs to its 1 XML files, such as 0\.xml"):
    voc.find(tmp_path)


def test_other_xml_is_not_voc(tmp_path):
  (tmp_path / "cvat.xml").write_text("<annotations></annotations>")
  assert voc.find(tmp_path) == {}
