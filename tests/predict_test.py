"""Own images from the JSON to the pictures: build, train, evaluate, predict."""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rkd_jax.detect.folder import load
from rkd_jax.evaluation.calibration.thresholds import Thresholds
from rkd_jax.evaluation.evaluate import detections_of, evaluate
from rkd_jax.frozen.detector import Detector
from rkd_jax.predict import _limits, find_images, predict
from rkd_jax.records.decoding import BadImageError
from rkd_jax.records.sources import open_source
from rkd_jax.runs.checkpoint import CheckpointError
from rkd_jax.structures import Batch
from rkd_jax.vocabulary.vocabulary import load_vocabulary
from tests import tiny_coco

pytestmark = pytest.mark.door
REPOSITORY = Path(__file__).parents[1]


def command(module, root, *arguments):
  """Runs a command of the README in a process of its own, on one device."""
  return subprocess.run(
    [sys.executable, "-m", module, f"--config=tests/tiny_coco.py:{root}", *arguments],
    cwd=REPOSITORY,
    env={**os.environ, "XLA_FLAGS": ""},
    capture_output=True,
    text=True,
  )


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """Data and a run of two steps."""
  root = tmp_path_factory.mktemp("coco")
  tiny_coco.build_data(root)
  done = command("rkd_jax.main", root, f"--workdir={root}/run")
  assert done.returncode == 0, done.stderr
  return root


@pytest.fixture(scope="module")
def config(root):
  return tiny_coco.get_config(str(root))


@pytest.fixture(scope="module")
def detector(root, config):
  return load(root / "run", config=config)


@pytest.fixture
def run(root, config, detector):
  """`predict` with the classes of the data set: images.json, and the boxes as 'detections'."""

  def call(files, output, base=None, **settings):
    own = detector if base is None else load(root / "run", config=config, base=base)
    results = predict(own, files, own.vocabulary(), output, min_score=0.0, **settings)
    return results | {"detections": json.loads((Path(output) / "predictions.json").read_text())}

  return call


def corners(detections):
  """Boxes of COCO results as [x1, y1, x2, y2]."""
  boxes = np.array([d["bbox"] for d in detections]).reshape(-1, 4)
  return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


def test_training_leaves_a_run_that_evaluates(root, config):
  results = evaluate(config, str(root / "run"))
  assert set(results["per_class"]) == set(tiny_coco.NAMES)
  assert all(entry["num_gt"] == 1 for entry in results["per_class"].values())
  assert 0 <= results["AP50_base"] <= 100


def test_predictions_are_those_of_the_evaluation(root, config, detector, run, tmp_path, capsys):
  files = find_images(f"{root}/images/*.jpg")
  results = run(files, tmp_path / "out")
  stored = json.loads((tmp_path / "out" / "images.json").read_text())
  assert stored == {name: results[name] for name in stored} and stored["skipped"] == []
  assert [entry["name"] for entry in stored["categories"]] == list(tiny_coco.NAMES)
  assert "[3/3]" in capsys.readouterr().out

  source = open_source(config.data.dir, config.data.name, "validation")
  vocabulary = load_vocabulary(config, source)
  for index, expected in detections_of(detector.network, source, vocabulary, config):
    entry = results["images"][index]
    height, width = tiny_coco.SIZES[index]
    assert (entry["height"], entry["width"]) == (height, width)
    assert Path(entry["file_name"]).name == f"{index}.jpg"
    found = [d for d in results["detections"] if d["image_id"] == entry["id"]]
    assert len(found) > 0
    boxes = corners(found)
    np.testing.assert_allclose(boxes, expected["boxes"], atol=1e-3)
    assert (boxes >= 0).all() and (boxes[:, [0, 2]] <= width + 1e-3).all()
    np.testing.assert_allclose([d["score"] for d in found], expected["scores"], atol=1e-4)
    assert [d["category_id"] - 1 for d in found] == expected["classes"].tolist()
    assert all(d["category"] == tiny_coco.NAMES[d["category_id"] - 1] for d in found)
    with Image.open(tmp_path / "out" / entry["picture"]) as picture:
      assert picture.width * height == picture.height * width


@pytest.mark.parametrize(
  "sizes, cut_to",
  [
    ([(60, 90), (50, 64)], (64, 128)),
    ([(90, 60)], (128, 64)),
    ([(60, 90), (90, 60)], (128, 128)),
  ],
)
def test_lying_and_standing_images_take_a_part_of_a_square_canvas(
  root, config, monkeypatch, sizes, cut_to
):
  config = config.copy_and_resolve_references()
  config.data.eval.short_sides = (60,)
  detector = Detector.restore(config, str(root / "run"))
  rng = np.random.default_rng(0)
  images = np.zeros((len(sizes), 128, 128, 3), np.uint8)
  for image, (height, width) in zip(images, sizes, strict=True):
    image[:height, :width] = rng.integers(0, 256, (height, width, 3))
  shape = np.array(sizes, np.int32)
  batch = Batch(images, shape, shape, np.arange(len(sizes)), np.ones(len(sizes), bool))
  source = open_source(config.data.dir, config.data.name, "validation")
  embeddings = load_vocabulary(config, source).embeddings

  seen, detect = [], detector._detect
  monkeypatch.setattr(detector, "_detect", lambda *args: seen.append(args[1]) or detect(*args))
  found = detector.detect(batch, embeddings)
  assert seen[0].images.shape[1:3] == cut_to
  expected = detect(detector.variables, batch, embeddings)
  assert expected.valid.any()
  np.testing.assert_array_equal(found.valid, expected.valid)
  np.testing.assert_array_equal(found.classes, expected.classes)
  np.testing.assert_allclose(found.boxes, expected.boxes, atol=1e-3)
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-5)


def test_classes_outside_the_base_list_are_marked(root, run, tmp_path):
  def picture(name, base):
    run(find_images(f"{root}/images/[01].jpg"), tmp_path / name, base=base)
    return (tmp_path / name / "0.png").read_bytes()

  assert picture("all", tiny_coco.NAMES) != picture("none", ())
  assert picture("known", None) == picture("the_same", tiny_coco.NAMES[:-1])


def test_a_bad_image_is_named_or_skipped(root, run, tmp_path, caplog):
  good = (root / "images" / "0.jpg").read_bytes()
  for name, data in (("a.jpg", good), ("b.jpg", good[:-300]), ("c.jpg", good)):
    (tmp_path / name).write_bytes(data)
  files = find_images(f"{tmp_path}/*.jpg")
  with pytest.raises(BadImageError, match=r"b\.jpg"):
    run(files, tmp_path / "out")
  # What was done before it stays, though a batch has two images.
  stored = json.loads((tmp_path / "out" / "images.json").read_text())
  assert not stored["complete"] and [entry["id"] for entry in stored["images"]] == [0]
  found = json.loads((tmp_path / "out" / "predictions.json").read_text())
  assert {d["image_id"] for d in found} == {0}
  assert (tmp_path / "out" / "a.png").is_file()
  results = run(files, tmp_path / "out", skip_bad_images=True)
  assert [Path(entry["file_name"]).name for entry in results["images"]] == ["a.jpg", "c.jpg"]
  assert results["skipped"] == [str(tmp_path / "b.jpg")] and results["complete"]
  assert {d["image_id"] for d in results["detections"]} == {0, 1}
  with pytest.raises(ValueError, match="None of the 1 images"):
    run([tmp_path / "b.jpg"], tmp_path / "out", skip_bad_images=True)


def test_pictures_neither_collide_nor_replace_images(root, run, tmp_path):
  (tmp_path / "sub").mkdir()
  for name in ("x.jpg", "sub/x.jpg", "sub/x.jpeg"):
    shutil.copy(root / "images" / "0.jpg", tmp_path / name)
  results = run(find_images(f"{tmp_path}/**/*.jp*g"), tmp_path / "out")
  pictures = [entry["picture"] for entry in results["images"]]
  assert pictures == ["sub/x.jpeg.png", "sub/x.jpg.png", "x.jpg.png"]
  assert all((tmp_path / "out" / picture).is_file() for picture in pictures)
  Image.new("RGB", (8, 8)).save(tmp_path / "y.png")
  with pytest.raises(ValueError, match=r"y\.png would replace an image"):
    run([tmp_path / "y.png"], tmp_path)


def test_links_keep_their_own_names(root, run, tmp_path):
  (tmp_path / "store").mkdir()
  shutil.copy(root / "images" / "0.jpg", tmp_path / "store" / "0123abcd")
  for name in ("x.jpg", "y.jpg"):
    (tmp_path / name).symlink_to("store/0123abcd")
  (tmp_path / "folder").symlink_to("store")
  files = [*find_images(f"{tmp_path}/*.jpg"), *find_images(f"{tmp_path}/folder/*")]
  pictures = [entry["picture"] for entry in run(files, tmp_path / "out")["images"]]
  assert pictures == ["x.png", "y.png", "folder/0123abcd.png"]
  with pytest.raises(ValueError, match="Two images have the same picture"):
    run([tmp_path / "x.jpg", tmp_path / "store" / ".." / "x.jpg"], tmp_path / "out")
  # What would be written through a link is an image, too.
  shutil.copy(root / "images" / "0.jpg", tmp_path / "z.png")
  (tmp_path / "links").mkdir()
  (tmp_path / "links" / "z.jpg").symlink_to("../z.png")
  with pytest.raises(ValueError, match=r"z\.png would replace an image"):
    run([tmp_path / "links" / "z.jpg"], tmp_path)


def test_a_folder_named_as_a_picture(root, run, tmp_path):
  (tmp_path / "a.png").mkdir()
  for name in ("a.jpg", "a.png/b.jpg"):
    shutil.copy(root / "images" / "0.jpg", tmp_path / name)
  results = run(find_images(f"{tmp_path}/**/*.jpg"), tmp_path / "out")
  assert [entry["picture"] for entry in results["images"]] == ["a.jpg.png", "a.png/b.jpg.png"]


@pytest.mark.parametrize("size", [(2, 4000), (30_000, 1), (1, 1)])
def test_the_picture_of_any_image_can_be_opened(run, tmp_path, size):
  Image.new("RGB", size, "red").save(tmp_path / "strip.png")
  results = run([tmp_path / "strip.png"], tmp_path / "out")
  (entry,) = results["images"]
  assert (entry["width"], entry["height"]) == size
  boxes = corners(results["detections"])
  assert (boxes >= 0).all() and (boxes <= np.array(size * 2) + 1e-3).all()
  with Image.open(tmp_path / "out" / "strip.png") as picture:
    picture.load()
    assert max(picture.size) <= 2**14


def test_large_images_are_drawn_smaller(root, run, tmp_path, monkeypatch):
  monkeypatch.setattr("rkd_jax.pictures.draw._MOST_PIXELS", 1000)
  files = find_images(f"{root}/images/0.jpg")
  smaller = run(files, tmp_path / "smaller")
  with Image.open(tmp_path / "smaller" / "0.png") as picture:
    assert picture.width % 36 == 0 and picture.height % 27 == 0  # 27 x 36, enlarged
  monkeypatch.undo()
  assert run(files, tmp_path / "whole")["detections"] == smaller["detections"]


def test_a_checkpoint_of_another_config(root, config):
  other = config.copy_and_resolve_references()
  other.model.box_head.width = 24
  with pytest.raises(CheckpointError, match=r"belongs to another config.*box_head"):
    Detector.restore(other, str(root / "run"))


def test_no_image_matches(tmp_path):
  (tmp_path / "folder.jpg").mkdir()
  with pytest.raises(ValueError, match=r"matches no file.*quote"):
    find_images(f"{tmp_path}/*.jpg")


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_keeps_what_it_has(root, tmp_path, number, code):
  (tmp_path / "images").mkdir()
  for i in range(300):
    (tmp_path / "images" / f"{i:03d}.jpg").symlink_to(root / "images" / "0.jpg")
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "rkd_jax.predict", f"{root}/run", f"{tmp_path}/images"),
      f"--output={tmp_path}/out",
    ],
    cwd=REPOSITORY,
    env={**os.environ, "XLA_FLAGS": ""},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  for line in process.stdout:
    if line.startswith("[3/300]"):
      process.send_signal(number)
      break
  out, err = process.communicate(timeout=60)
  assert process.returncode == code, err
  stored = json.loads((tmp_path / "out" / "images.json").read_text())
  done = [entry["picture"] for entry in stored["images"]]
  assert 3 <= len(done) < 300 and not stored["complete"]
  assert done == sorted(picture.name for picture in (tmp_path / "out").glob("*.png"))
  assert f"{len(done)} of 300 images are done" in out and "Traceback" not in err


def test_names_that_are_not_utf8(root, tmp_path, monkeypatch):
  monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
  name = os.fsdecode(b"caf\xe9.jpg")
  for file in (name, "z.jpg"):
    shutil.copy(root / "images" / "0.jpg", tmp_path / file)
  arguments = f"{root}/run", f"{tmp_path}/*.jpg", f"--output={tmp_path}/out"
  done = command("rkd_jax.predict", root, *arguments)
  assert done.returncode == 0, done.stderr
  assert r"caf\udce9.jpg" in done.stdout
  stored = json.loads((tmp_path / "out" / "images.json").read_text(encoding="ascii"))
  assert {entry["file_name"] for entry in stored["images"]} == {
    str(tmp_path / name),
    str(tmp_path / "z.jpg"),
  }
  assert all((tmp_path / "out" / entry["picture"]).is_file() for entry in stored["images"])


def test_the_command(root, config, tmp_path):
  arguments = [f"{root}/run", f"{root}/images/*.jpg", f"--output={tmp_path}/out"]
  done = command("rkd_jax.predict", root, *arguments, "--classes=cat, red fox")
  assert done.returncode == 0, done.stderr
  stored = json.loads((tmp_path / "out" / "images.json").read_text())
  assert [entry["name"] for entry in stored["categories"]] == ["cat", "red fox"]
  assert len(stored["images"]) == 3
  done = command("rkd_jax.predict", root, *arguments, "--classes=cat, unicorn")
  assert done.returncode == 1
  assert "'unicorn' is none of" in done.stderr and "Traceback" not in done.stderr


def average_precision(truth, results):
  """AP50 by pycocotools, percent."""
  coco = COCO(str(truth))
  evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
  for stage in (evaluation.evaluate, evaluation.accumulate, evaluation.summarize):
    stage()
  return 100 * evaluation.stats[1]


def test_the_ap_of_what_is_written_is_that_of_the_evaluation(root, config, run, tmp_path):
  content = json.loads((root / "coco.json").read_text())
  for entry in content["annotations"]:  # what pycocotools cannot do without
    entry |= {"iscrowd": 0, "area": 1.0}
  truth = tmp_path / "coco.json"
  truth.write_text(json.dumps(content))
  run(find_images(f"{root}/images"), tmp_path / "out", annotations=str(truth))
  expected = evaluate(config, str(root / "run"))["AP50_all"]
  assert average_precision(truth, tmp_path / "out" / "predictions.json") == pytest.approx(
    expected, abs=1e-9
  )
  # Without annotations the files belong to each other.
  run(find_images(f"{root}/images"), tmp_path / "alone")
  COCO(str(tmp_path / "alone" / "images.json")).loadRes(
    str(tmp_path / "alone" / "predictions.json")
  )


def test_limits_of_the_run(root, tmp_path):
  """As `rkd-jax eval --calibrate` writes them."""
  shutil.copytree(root / "run", tmp_path / "run")
  assert _limits("0.25", str(tmp_path / "run"), ("cat",), "") == 0.25
  with pytest.raises(ValueError, match=r"thresholds\.json is missing"):
    _limits("auto", str(tmp_path / "run"), ("cat",), "")
  points = {key: {"score": 0.125} for key in ("0.5", "0.7", "0.9", "f1")}
  own = {key: {"score": 0.5} for key in points}
  content = {
    "step": 2,
    "split": "validation",
    "all": {"objects": 99, "hits": 99, "points": points},
    "classes": {"cat": {"objects": 50, "hits": 50, "points": own}},
  }
  (tmp_path / "run" / "thresholds.json").write_text(json.dumps(content))
  for given in ("auto", "auto:0.9"):
    limits = _limits(given, str(tmp_path / "run"), ("cat", "kite"), "crops")
    assert limits == {"cat": 0.5, "kite": 0.125}
  for given in ("auto:0.8", "1.5", "some"):
    with pytest.raises(ValueError, match=r"0\.9"):
      _limits(given, str(tmp_path / "run"), ("cat",), "")
  (tmp_path / "run" / "thresholds.json").write_text(json.dumps(content | {"fusion": "crops"}))
  assert _limits("auto", str(tmp_path / "run"), ("kite",), "crops") == {"kite": 0.125}
  with pytest.raises(ValueError, match=r"fusion.kind 'crops', but it is '' here: .* --calibrate"):
    _limits("auto", str(tmp_path / "run"), ("kite",), "")


def test_probabilities_of_the_run(root, run, tmp_path):
  """They stand beside the scores, which stay."""
  plain = run(find_images(f"{root}/images"), tmp_path / "plain")["detections"]
  scale = {"slope": 1.5, "bias": -1.0, "classes": {"cat": 0.5}}
  thresholds = Thresholds(2, "validation", {"probability": scale})
  found = run(find_images(f"{root}/images"), tmp_path / "out", thresholds=thresholds)["detections"]
  assert len({own["category"] for own in found}) > 1
  for own, expected in zip(found, plain, strict=True):
    odds = (own["score"] / (1 - own["score"])) ** 1.5
    odds *= np.exp(scale["classes"].get(own["category"], -1.0))
    assert own.pop("probability") == pytest.approx(odds / (1 + odds), abs=1e-6)
    assert own == expected
  before, after = ((tmp_path / name / "predictions.csv").read_text() for name in ("plain", "out"))
  rows = after.splitlines()
  assert rows[0].endswith(",y2,probability") and len(rows) > 4
  assert [row.rpartition(",")[0] for row in rows] == before.splitlines()


@pytest.mark.parametrize(
  "names, annotations, message",
  [
    (["0.jpg"], {"images": []}, r"has no image '0\.jpg'"),
    (["0.jpg"], {"categories": [{"id": 1, "name": "cat"}]}, r"has no category 'dog', nor 1 more"),
  ],
)
def test_annotations_of_something_else(root, run, tmp_path, names, annotations, message):
  content = json.loads((root / "coco.json").read_text()) | {"annotations": []} | annotations
  (tmp_path / "other.json").write_text(json.dumps(content))
  files = [root / "images" / name for name in names]
  with pytest.raises(ValueError, match=message):
    run(files, tmp_path / "out", annotations=str(tmp_path / "other.json"))
  assert not (tmp_path / "out").exists()


def test_a_video_among_images(root, run, tmp_path):
  av = pytest.importorskip("av", reason="PyAV is the extra `video`")
  with av.open(str(tmp_path / "clip.mp4"), "w") as container:
    stream = container.add_stream("libx264", rate=5)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
    for number in range(5):
      pixels = np.full((48, 64, 3), 40 * number, np.uint8)
      container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
    container.mux(stream.encode())
  shutil.copy(root / "images" / "0.jpg", tmp_path / "a.jpg")
  results = run(find_images(str(tmp_path)), tmp_path / "out", every=2)
  assert [entry.get("frame") for entry in results["images"]] == [None, 0, 2, 4]
  assert [entry["id"] for entry in results["images"]] == [0, 1, 2, 3]
  assert {d["image_id"] for d in results["detections"]} == {0, 1, 2, 3}
  with av.open(str(tmp_path / "out" / "clip.mp4")) as container:
    assert len(list(container.decode(video=0))) == 3
  rows = (tmp_path / "out" / "predictions.csv").read_text().splitlines()
  assert rows[0] == "file,frame,word,score,x1,y1,x2,y2" and len(rows) > 4
  assert {row.split(",")[1] for row in rows[1:]} == {"", "0", "2", "4"}
