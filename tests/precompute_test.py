"""The command, as users start it, on a built data set with a tiny CLIP."""

import functools
import json
import re
from types import SimpleNamespace

import jax
import numpy as np
import openai_clip
import pytest
import tiny_clip

from rkd_jax import precompute
from rkd_jax.files import checksums
from rkd_jax.files.torch_writer import write_pth
from rkd_jax.frozen import mavl as infer
from rkd_jax.frozen.clip import RegionEncoder, load_clip
from rkd_jax.frozen.regions import crop_regions
from rkd_jax.models.clip.model import ClipConfig
from rkd_jax.records.results import FIELDS, TeacherReader
from rkd_jax.records.sources import decode_image, open_source
from rkd_jax.teachers import pipeline
from rkd_jax.teachers import settings as teachers
from rkd_jax.teachers.mavl import MvitProposer
from rkd_jax.teachers.proposals import PseudoBoxes
from rkd_jax.vocabulary.class_embeddings import CLOSED, save
from tests import tiny, tiny_mvit

ARCHIVE = openai_clip.GOLDEN.with_name("clip_tiny_jit_fp16.pt")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
  root = tmp_path_factory.mktemp("data")
  tiny.build_data(root)
  return root / "data"


@pytest.fixture(scope="module")
def source(data):
  return open_source(data, "shapes_ovd/scenes", "train_images")


@pytest.fixture(scope="module")
def clip_run(tmp_path_factory, source):
  texts = [f"a photo of a {name}" for name in source.class_names]
  return tiny_clip.write_run(tmp_path_factory.mktemp("clip"), texts)


@pytest.fixture(scope="module")
def command(data, tmp_path_factory):
  """Runs the command in this process, in groups of 4 images; the split has 12."""
  root = tmp_path_factory.mktemp("results")

  def call(name, *arguments):
    precompute.main(
      [
        f"--data_dir={data}",
        "--dataset=shapes_ovd/scenes",
        "--splits=train_images",
        f"--output={root / name}",
        "--workers=1",
        "--batch_size=8",
        *arguments,
      ]
    )
    return root / name

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(pipeline, "GROUP", 4)
    yield call


@pytest.fixture(scope="module")
def first(command, clip_run):
  return command("first", f"--clip={clip_run}")


@pytest.fixture(scope="module")
def published(tmp_path_factory):
  """A state dict with OpenAI's names and the whole vocabulary."""
  config = ClipConfig(
    embed_dim=6,
    image_resolution=16,
    vision_layers=1,
    vision_width=64,
    vision_patch_size=8,
    transformer_width=64,
    transformer_heads=1,
    transformer_layers=1,
  )
  rng = np.random.default_rng(0)
  shapes = openai_clip.shapes(config).items()
  path = tmp_path_factory.mktemp("published") / "clip.pt"
  write_pth(path, {name: rng.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes})
  return path


def _read(output):
  return TeacherReader(output, "train_images")


def _assert_embedded(results, source, clip, context, mode):
  encoder = RegionEncoder(clip, 4)
  for index in range(len(source)):
    record = source[index]
    result = results[record.image_id]
    boxes = result["regions/boxes"]
    crops = crop_regions(decode_image(record), boxes, clip.image_size, context, mode)
    expected = encoder.embed(crops)
    np.testing.assert_allclose(result["regions/clip_embeddings"], expected, rtol=1e-4, atol=1e-4)


def test_a_clip_run_embeds_square_crops_of_grown_regions(first, source, clip_run):
  results = _read(first)
  assert len(results) == 12
  assert results.metadata["crop_mode"] == "square" and results.metadata["context"] == 0.12
  assert results.metadata["proposer"]["name"] == "RegionGrowing"
  clip = load_clip(clip_run)
  assert results.metadata["clip_checksum"] == checksums.of_arrays(clip.variables)
  _assert_embedded(results, source, clip, 0.12, "square")
  report = json.loads((first / "train_images" / "report.json").read_text())
  assert report["images"] == 12 and report["regions"] > 12 and report["pseudo_boxes"] > 12


def test_published_weights_embed_crops_of_their_own_kind(command, source, published):
  results = _read(
    command("published", f"--clip={published}", "--activation=quick_gelu", "--regions=3")
  )
  metadata = results.metadata
  assert (metadata["crop_mode"], metadata["context"], metadata["regions"]) == ("clip", 0.0, 3)
  assert metadata["clip_checksum"] == checksums.of_file(published)
  assert metadata["clip_activation"] == "quick_gelu"
  assert max(len(results[source[i].image_id]["regions/boxes"]) for i in range(12)) == 3
  _assert_embedded(results, source, load_clip(published, "quick_gelu"), 0.0, "clip")


def test_mavl_proposes_and_answers(command, source, monkeypatch, tmp_path):
  """With a CLIP that reads no text, since MAVL itself is asked for the classes.

  On two devices, as alone on one.
  """
  # More would take more compiling.
  monkeypatch.setattr(jax, "local_devices", lambda **_: jax.devices()[:2])
  write_pth(tmp_path / "mavl.pth", tiny_mvit.state_dict())
  for name in ("vocab.json", "merges.txt"):
    (tmp_path / name).write_text(name)
  monkeypatch.setattr(infer, "Tokenizer", lambda *_: tiny_mvit.tokenize)
  small = functools.partial(MvitProposer, short_side=64, config=tiny_mvit.CONFIG)
  opened = teachers.SOURCES["mvit"]._replace(open=small)
  monkeypatch.setitem(teachers.SOURCES, "mvit", opened)
  arguments = [
    f"--clip={ARCHIVE}",
    "--proposals=mvit",
    f"--checkpoint={tmp_path / 'mavl.pth'}",
    f"--vocabulary={tmp_path / 'vocab.json'}",
    f"--merges={tmp_path / 'merges.txt'}",
  ]
  results = _read(command("mvit", *arguments, "--pseudo_box_threshold=0.2"))
  assert results.metadata["proposer"]["checkpoint"] == checksums.of_file(tmp_path / "mavl.pth")
  proposer = small(*(str(tmp_path / name) for name in ("mavl.pth", "vocab.json", "merges.txt")))
  dropped, found = 0, 0
  for index in range(len(source)):
    record = source[index]
    result = results[record.image_id]
    names = [source.class_names[label] for label in record.labels]
    (boxes, _), (answers, answer_scores) = proposer.answer(decode_image(record), names)
    dropped += len(boxes) - len(result["regions/boxes"])
    places = [np.flatnonzero((boxes == box).all(1)).tolist() for box in result["regions/boxes"]]
    assert all(places) and sorted(places) == places
    for box, label, score in zip(*(result[f"pseudo_boxes/{k}"] for k in PseudoBoxes._fields)):
      row = record.labels.tolist().index(label)
      np.testing.assert_array_equal(box, answers[row])
      assert score == answer_scores[row] and score > 0.2
      found += 1
  notes = [note for n in results.notes.values() for note in n.get("dropped_boxes", ())]
  assert dropped == sum(note.startswith("region") for note in notes)
  assert found > 0
  _assert_embedded(results, source, load_clip(ARCHIVE), 0.0, "clip")


def test_another_clip_embeds_the_regions_of_an_earlier_run(first, command, source, published):
  results = _read(
    command("second", f"--clip={published}", "--activation=quick_gelu", f"--proposals={first}")
  )
  assert results.metadata["proposer"]["results"] == _read(first).metadata
  for index in range(len(source)):
    image_id = source[index].image_id
    for key in FIELDS:
      if key != "regions/clip_embeddings":
        np.testing.assert_array_equal(results[image_id][key], _read(first)[image_id][key])
  _assert_embedded(results, source, load_clip(published, "quick_gelu"), 0.0, "clip")


@pytest.mark.hosts
def test_two_processes_share_a_split(first, command, capsys, source, clip_run):
  expected = _read(first)
  shared = [f"--clip={clip_run}", "--process_count=2"]
  capsys.readouterr()
  command("shared", *shared, "--process_index=0")
  assert "process 0 of 2 is done" in capsys.readouterr().out
  results = _read(command("shared", *shared, "--process_index=1"))
  for index in range(len(source)):
    image_id = source[index].image_id
    for key in FIELDS:
      np.testing.assert_array_equal(results[image_id][key], expected[image_id][key])


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--proposals=mvit"], "--proposals=mvit needs --checkpoint=..., --vocabulary=..."),
    (["--proposals=rpn"], "--proposals=rpn needs --checkpoint="),
    (["--proposals=owl_vit", "--checkpoint=F"], "git clone https://github.com/google-research"),
    (["--proposals=mvti"], "--proposals=mvti: expected regions, mvit, rpn"),
    (["--regions=0"], "regions=0"),
    (["--batch_size=0"], "--batch_size=0: expected at least 1"),
    (["--process_index=2", "--process_count=2"], "process 2 of 2"),
    (["--splits=tain"], "no split 'tain'"),
  ],
)
def test_mistakes_are_named(command, capsys, clip_run, arguments, message):
  with pytest.raises(SystemExit) as raised:
    command("out", f"--clip={clip_run}", *arguments)
  assert raised.value.code == 1
  assert message in capsys.readouterr().err


@pytest.fixture
def complete():
  """What is set for some flags."""

  def call(*flags):
    args = precompute.make_parser("").parse_args(list(flags))
    precompute.complete(args)
    return args

  return call


@pytest.fixture
def project(tmp_path):
  rows = np.eye(2, 8, dtype=np.float32)
  save(tmp_path / "class_embeddings.npz", ("cat", "dog"), "a {}", rows)
  return tmp_path


def test_a_project_stands_for_its_places(complete, project, capsys):
  args = complete(f"--root={project}", "--clip=C", "--splits=validation")
  assert (args.data_dir, args.output) == (f"{project}/data", f"{project}/teachers")
  assert (args.dataset, args.splits, args.proposals) == ("coco_json/plain", "validation", None)
  out = capsys.readouterr().out
  assert "Proposals: regions" in out and "WARNING: regions are grown from colours" in out


def test_the_base_of_a_project_proposes_once_it_is_trained(complete, project, capsys):
  (project / "base" / "checkpoints" / "40").mkdir(parents=True)
  args = complete(f"--root={project}", "--clip=C")
  assert (args.proposals, args.checkpoint) == ("rpn", f"{project}/base")
  assert f"Proposals: rpn of {project}/base" in capsys.readouterr().out
  assert complete(f"--root={project}", "--clip=C", "--proposals=regions").proposals == "regions"
  mavl = ["--checkpoint=M.pth", "--vocabulary=V", "--merges=M"]
  args = complete(f"--root={project}", "--clip=C", *mavl)
  assert (args.proposals, args.checkpoint) == ("mvit", "M.pth")


def test_what_is_missing_is_named(complete, project):
  with pytest.raises(ValueError, match=r"^--clip must be given; --help"):
    complete(f"--root={project}")
  with pytest.raises(ValueError, match=r"--data_dir, --dataset, --splits, .* must .*--root"):
    complete()


def test_a_closed_vocabulary_has_no_clip_for_rkd(complete, project):
  save(project / "class_embeddings.npz", ("cat",), CLOSED, np.eye(1, 8, dtype=np.float32))
  with pytest.raises(ValueError, match="closed vocabulary, made without a CLIP, but RKD"):
    complete(f"--root={project}", "--clip=C")


@pytest.mark.parametrize(
  "rows, said",
  [
    (np.eye(2, 8)[::-1], "^$"),
    (np.eye(2, 8, 4), r"are unlike those of .*class_embeddings\.npz \(mean cosine 0\.00\)"),
    (None, "^$"),
  ],
)
def test_another_clip_than_that_of_the_class_embeddings_is_warned_of(project, capsys, rows, said):
  opened = SimpleNamespace(
    source=SimpleNamespace(class_names=("dog", "cat")), embedding_dim=8, class_embeddings=rows
  )
  precompute.check_clip(opened, str(project))
  assert re.search(said, capsys.readouterr().out)


def test_a_clip_of_another_width_is_refused_and_missing_rows_are_said(project, tmp_path, capsys):
  opened = SimpleNamespace(embedding_dim=6)
  with pytest.raises(ValueError, match="has 8 dimensions, but --clip has 6: give the CLIP"):
    precompute.check_clip(opened, str(project))
  precompute.check_clip(opened, str(tmp_path / "other"))
  assert "is not there; make it with the same --clip" in capsys.readouterr().out
