"""What the builders share."""

import dataclasses

import pytest

from rkd_jax.data import builder
from rkd_jax.data.shapes_ovd import shapes_ovd


def test_official_totals_are_recognised():
  counted = {"a.json": {"images": (3, 3)}, "b.json": {"images": (5, 4), "boxes": (9, 9)}}
  assert builder.compared(counted) == [
    "a.json has the official totals: 3 images",
    "b.json is not the official file, or cut: 5 images (official: 4)",
  ]


@pytest.mark.parametrize("flag", ["--config=rkd", "--teachers=FOLDER"])
def test_flags_of_the_second_build_say_how_it_is_done_now(flag, capsys):
  parser = builder.argument_parser("A builder.")
  assert "teachers" not in vars(parser.parse_args(["--data_dir=data"]))
  with pytest.raises(SystemExit):
    parser.parse_args(["--data_dir=data", flag])
  assert "--config.data.teachers=FOLDER" in capsys.readouterr().err


@pytest.mark.parametrize(
  ("novel", "message"),
  [
    (("zebra",), "novel classes names 'zebra', which is not among"),
    (("solid red circle",), r"\['solid red circle'\] are in the list of base classes"),
  ],
)
def test_novel_names_that_are_no_class_or_base_ones_are_refused(
  tmp_path, monkeypatch, novel, message
):
  kind = dataclasses.replace(shapes_ovd.KINDS["scenes"], novel=novel)
  monkeypatch.setitem(shapes_ovd.KINDS, "scenes", kind)
  with pytest.raises(ValueError, match=message):
    shapes_ovd.ShapesOvd(data_dir=tmp_path)
