"""What batches hold, that they depend on (seed, step) alone, and what stops them."""

import dataclasses
import hashlib
import io
import time

import jax
import numpy as np
import pytest
from PIL import Image

from rkd_jax.inputs import batching, examples
from rkd_jax.inputs import index as index_lib
from rkd_jax.inputs.examples import BatchSpec
from rkd_jax.inputs.sampler import Repeats
from rkd_jax.inputs.sources import Record, decode_image

DIM = 4


def _png(height, width, seed):
  # A low-contrast random picture, so that its mean tells which one it is.
  rng = np.random.default_rng(seed)
  image = rng.integers(20 * seed % 200, 20 * seed % 200 + 20, (height, width, 3), np.uint8)
  buffer = io.BytesIO()
  Image.fromarray(image).save(buffer, "PNG")
  return buffer.getvalue()


def _record(index, **changes):
  height, width = 20, 30 - index % 2 * 16
  rng = np.random.default_rng(index)
  record = Record(
    image=_png(height, width, index),
    image_id=100 + index,
    filename=f"{index}.png",
    height=height,
    width=width,
    boxes=np.array([[1, 2, 9, 12], [0, 0, 5, 5], [4, 4, 14, 20]], np.float32),
    classes=np.array([3, 1, 2], np.int32),
    is_crowd=np.array([False, True, False]),
    areas=np.array([80, 25, 160], np.float32),
    object_ids=np.array([1, 2, 3]),
    labels=np.array([5, 6], np.int32),
    captions=("a red star", "two green discs"),
    region_boxes=np.array([[0, 0, 4, 4], [1, 1, 8, 8], [2, 2, 9, 9]], np.float32),
    region_embeddings=rng.normal(size=(3, DIM)).astype(np.float32),
    region_scores=np.array([0.9, 0.8, 0.7], np.float32),
    pseudo_boxes=np.array([[2, 2, 10, 10], [0, 0, 14, 20]], np.float32),
    pseudo_labels=np.array([5, 6], np.int32),
    pseudo_scores=np.array([0.9, 0.8], np.float32),
  )
  return dataclasses.replace(record, **changes)


class FakeSource(list):
  """Records in memory; counts how often each is read."""

  class_names = tuple("abcdefgh")
  base = tuple("abcd")
  novel = tuple("fg")
  embedding_dim = DIM

  def __init__(self, records):
    super().__init__(records)
    self.index = index_lib.make((r.height, r.width, r.classes, 2, 2) for r in self)
    self.reads = 0

  def __getitem__(self, index):
    self.reads += 1
    return super().__getitem__(index)


def _source(count=6, **changes):
  return FakeSource([_record(index, **changes) for index in range(count)])


def _spec(kind="box", **changes):
  settings = {
    "kind": kind,
    "batch_size": 4,
    "canvas": (44, 44),
    "short_sides": (16, 24) if kind != "eval" else (24,),
    "max_side": 44,
    "flip": kind != "eval",
    "max_boxes": 5,
    "max_regions": 5,
    "max_labels": 3,
    "embedding_dim": DIM,
  }
  return BatchSpec(**(settings | changes))


def _tokenizer(text):
  return np.array([len(text), ord(text[0])])


SPECS = {
  "box": _spec("box"),
  "image": _spec("image", batch_size=8, short_sides=(12,)),
  "caption": BatchSpec("caption", 4, (16, 16), flip=True, crop=0.2, tokenizer=_tokenizer),
}
SOURCES = {kind: _source() for kind in SPECS}


def _batches(start=0, stop=6, seed=0, **options):
  sampler = batching.make_sampler(seed, ("box", "image", "caption"), SOURCES, SPECS)
  return list(batching.train_batches(SOURCES, SPECS, sampler, start, stop, **options))


def _hash(batch):
  digest = hashlib.sha256()
  for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
    digest.update(f"{path} {leaf.shape} {leaf.dtype}".encode() + leaf.tobytes())
  return digest.hexdigest()


def _one(kind, record=None, **changes):
  """A batch of one record, not mirrored, at its own size (20 x 14)."""
  spec = _spec(kind, short_sides=(14,), flip=False, batch_size=1, **changes)
  record = record or _record(1)
  make = {"box": examples.box_example, "image": examples.image_example}[kind]
  image = decode_image(record)
  return examples.collate([make(record, image, spec, np.random.default_rng(0))])


def test_ids_longer_than_31_bits_keep_the_lowest():
  batch = _one("image", dataclasses.replace(_record(1), image_id=5 * 2**31 + 7))
  assert batch.image_ids.dtype == np.int32 and batch.image_ids.tolist() == [7]


def test_box_batch_holds_ground_truth_without_crowds_and_regions_in_order():
  batch = _one("box")
  record = _record(1)
  assert batch.images.shape == (1, 44, 44, 3) and batch.images.dtype == np.uint8
  np.testing.assert_array_equal(batch.images[0, :20, :14], decode_image(record))
  assert not batch.images[0, 20:].any() and not batch.images[0, :, 14:].any()
  assert batch.sizes.tolist() == batch.original_sizes.tolist() == [[20, 14]]
  assert batch.image_ids.tolist() == [101] and batch.valid.tolist() == [True]
  assert batch.ground_truth.valid.tolist() == [[True, True, False, False, False]]
  assert batch.ground_truth.classes.tolist() == [[3, 2, 0, 0, 0]]
  np.testing.assert_array_equal(batch.ground_truth.boxes[0, :2], record.boxes[[0, 2]])
  assert batch.regions.valid.tolist() == [[True, True, True, False, False]]
  np.testing.assert_array_equal(batch.regions.boxes[0, :3], record.region_boxes)
  np.testing.assert_array_equal(batch.regions.embeddings[0, :3], record.region_embeddings)
  assert batch.pseudo_boxes is None


def test_image_batch_holds_pseudo_boxes_and_no_ground_truth():
  batch = _one("image")
  assert batch.ground_truth is None
  assert batch.pseudo_boxes.classes.tolist() == [[5, 6, 0]]
  assert batch.pseudo_boxes.valid.tolist() == [[True, True, False]]
  np.testing.assert_array_equal(batch.pseudo_boxes.boxes[0, :2], _record(1).pseudo_boxes)
  assert batch.regions.valid.sum() == 3


def test_only_the_first_regions_are_taken():
  batch = _one("box", max_regions=2)
  assert batch.regions.valid.tolist() == [[True, True]]
  np.testing.assert_array_equal(batch.regions.boxes[0], _record(1).region_boxes[:2])


def test_zero_rows_leave_a_field_out():
  assert _one("box", max_regions=0).regions is None
  assert _one("image", max_labels=0).pseudo_boxes is None


def test_all_boxes_of_a_picture_move_with_it():
  same = np.array([[2, 3, 10, 12]], np.float32)
  record = _record(
    0,
    boxes=same,
    classes=np.array([1]),
    is_crowd=np.array([False]),
    region_boxes=same,
    region_embeddings=np.ones((1, DIM), np.float32),
    pseudo_boxes=same,
  )
  image = decode_image(record)
  seen = set()
  for seed in range(12):
    boxed, imaged = (
      make(record, image, _spec(), np.random.default_rng(seed))
      for make in (examples.box_example, examples.image_example)
    )
    np.testing.assert_array_equal(boxed.images, imaged.images)
    box = tuple(boxed.ground_truth.boxes[0].tolist())
    assert box == tuple(boxed.regions.boxes[0].tolist()) == tuple(imaged.regions.boxes[0].tolist())
    assert box == tuple(imaged.pseudo_boxes.boxes[0].tolist())
    seen.add(box)
  assert len(seen) == 4  # two sizes, mirrored or not


def test_empty_ground_truth_is_dropped():
  boxes = np.array([[3, 3, 3, 9], [1, 1, 5, 5], [90, 1, 99, 5]], np.float32)
  batch = _one("box", _record(1, boxes=boxes, is_crowd=np.zeros(3, bool)))
  assert batch.ground_truth.valid.sum() == 1
  assert batch.ground_truth.classes[0, 0] == 1


TRIANGLE = np.array([[1.0, 2], [9, 2], [9, 12]])


def _masks(batch):
  """Polygons of each valid row of a batch of one."""
  truth = batch.ground_truth
  rows = zip(truth.vertices[0], truth.owners[0], truth.valid[0])
  return [
    [vertices[owners == i].tolist() for i in range(owners.max() + 1)]
    for vertices, owners, valid in rows
    if valid
  ]


def test_polygons_go_with_their_boxes():
  """Box 1 is a crowd; without polygons an object is left out, as detectron2 does."""
  two = (TRIANGLE, TRIANGLE[:, ::-1])
  batch = _one("box", _record(1, polygons=((TRIANGLE,), (), two)), max_vertices=8)
  assert batch.ground_truth.vertices.shape == (1, 5, 8, 2)
  assert _masks(batch) == [[TRIANGLE.tolist()], [polygon.tolist() for polygon in two]]
  assert (batch.ground_truth.owners[0, 2:] == -1).all()
  batch = _one("box", _record(1, polygons=((), (), two)), max_vertices=8)
  assert batch.ground_truth.classes[0, 0] == 2 and len(_masks(batch)) == 1
  assert _one("box", _record(1, polygons=((), (), two))).ground_truth.vertices is None


def test_polygons_move_with_the_picture():
  corners = np.array([[1.0, 2], [9, 2], [9, 12], [1, 12]])
  record = _record(0, polygons=((corners,), (), (corners,)))
  image, seen = decode_image(record), set()
  for seed in range(12):
    spec = _spec(max_vertices=4)
    truth = examples.box_example(record, image, spec, np.random.default_rng(seed)).ground_truth
    found = [*truth.vertices[0].min(0), *truth.vertices[0].max(0)]
    np.testing.assert_allclose(found, truth.boxes[0], rtol=1e-6)
    seen.add(tuple(truth.boxes[0].tolist()))
  assert len(seen) == 4


def test_masks_need_polygons_and_room_for_a_triangle():
  with pytest.raises(ValueError, match=r"1\.png \(id 101\).*without polygons.*max_vertices"):
    _one("box", max_vertices=8)
  with pytest.raises(ValueError, match="max_vertices is 2"):
    _spec(max_vertices=2)


def test_caption_batch_pairs_images_with_tokens():
  (_, _, batch), *_ = [entry for entry in _batches() if entry[1] == "caption"]
  assert batch.images.shape == (4, 16, 16, 3)
  assert batch.tokens.dtype == np.int32
  assert {tuple(row) for row in batch.tokens.tolist()} <= {(10, ord("a")), (15, ord("t"))}


def test_every_caption_of_an_image_is_drawn():
  record, spec = _record(0), SPECS["caption"]
  image = decode_image(record)
  drawn = [
    examples.caption_example(record, image, spec, np.random.default_rng(seed)) for seed in range(20)
  ]
  assert {int(example.tokens[0]) for example in drawn} == {10, 15}


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("threads", [0, 3])
def test_batches_do_not_depend_on_the_number_of_hosts_and_threads(hosts, threads):
  shares = [_batches(host_index=host, host_count=hosts, threads=threads) for host in range(hosts)]
  for reference, *parts in zip(_batches(), *shares, strict=True):
    step, kind, whole = reference
    assert all(part[:2] == (step, kind) for part in parts)
    joined = jax.tree.map(lambda *rows: np.concatenate(rows), *[part[2] for part in parts])
    assert _hash(joined) == _hash(whole)


def test_batches_after_a_restart_are_the_same():
  hashes = [_hash(batch) for _, _, batch in _batches(0, 6)]
  assert [step for step, _, _ in _batches(4, 6)] == [4, 5]
  assert [_hash(batch) for _, _, batch in _batches(4, 6)] == hashes[4:]
  assert len(set(hashes)) == 6
  assert hashes[0] != _hash(_batches(0, 1, seed=1)[0][2])
  assert _batches(6, 6) == []


# Records 1, 3 and 5 stand (20 x 14), the others lie (20 x 30).
GROUPED = {
  "box": _spec("box", canvas=(26, 48), short_sides=(12, 16, 20, 26), max_side=44),
  "image": _spec("image", canvas=(12, 24), short_sides=(12,), max_side=24),
}
REPEATS = {
  form: {"box": Repeats(np.array([1, 1, 1.5, 2, 1, 1]), form)}
  for form in ("stochastic", "fractional")
}


def _grouped(start, stop, specs=GROUPED, repeats=None, source=None, **options):
  sources = dict.fromkeys(specs, source or SOURCES["box"])
  sampler = batching.make_sampler(0, tuple(specs), sources, specs, repeats)
  return list(batching.train_batches(sources, specs, sampler, start, stop, **options))


def test_canvases_lie_or_stand_with_their_images():
  batches = _grouped(0, 40)
  assert {(kind, batch.images.shape[1:3]) for _, kind, batch in batches} == {
    ("box", (26, 48)),
    ("box", (48, 26)),
    ("image", (12, 24)),
    ("image", (24, 12)),
  }
  for _, _, batch in batches:
    height, width = batch.images.shape[1:3]
    stands = batch.original_sizes[:, 0] > batch.original_sizes[:, 1]
    assert (stands == (height > width)).all()
    assert (batch.sizes <= (height, width)).all()
    assert (batch.image_ids % 2 == stands).all()


def test_a_program_is_compiled_once_for_each_orientation():
  step = jax.jit(lambda batch, kind: sum(x.sum() for x in jax.tree.leaves(batch)), static_argnums=1)
  for _, kind, batch in _grouped(0, 40):
    step(batch, kind)
  assert step._cache_size() == 4


def test_images_of_a_batch_draw_from_one_group_of_short_sides():
  """On a canvas as high as the group needs, in multiples of 32."""
  sides = (16, 24, 32, 48, 56)
  spec = _spec(canvas=(60, 100), short_sides=sides, max_side=100, scale_groups=2)
  found = {}
  for _, _, batch in _grouped(0, 60, {"box": spec}):
    found.setdefault(batch.images.shape[1:3], set()).update(batch.sizes.min(axis=1).tolist())
  low, high = {16, 24, 32}, {48, 56}
  assert found == {(32, 100): low, (100, 32): low, (60, 100): high, (100, 60): high}


def test_groups_change_no_scale_s_frequency():
  """Chi-square over 3,000 batches; 13.8 is the 0.1 % point of 2 degrees of freedom."""
  spec = _spec(short_sides=tuple(range(1, 9)), scale_groups=3)
  drawn = [spec.for_batch(False, np.random.default_rng(i)).short_sides for i in range(3000)]
  groups = [(1, 2, 3), (4, 5, 6), (7, 8)]
  counts, expected = np.array([drawn.count(g) for g in groups]), 3000 * np.array([3, 3, 2]) / 8
  assert counts.sum() == 3000 and ((counts - expected) ** 2 / expected).sum() < 13.8
  assert spec.for_batch(True, np.random.default_rng(0)).canvas == (44, 44)


@pytest.mark.parametrize("form", [None, "stochastic", "fractional"])
@pytest.mark.parametrize("hosts", [2, 4])
def test_grouped_batches_depend_on_seed_and_step_alone(form, hosts):
  """For any number of hosts, threads and restarts, with and without repeat factors."""
  options = {"repeats": REPEATS.get(form)}
  reference = _grouped(0, 24, **options)
  assert len({_hash(batch) for _, _, batch in reference}) == 24
  for start in (0, 17):
    shares = [
      _grouped(start, 24, host_index=host, host_count=hosts, threads=host % 3, **options)
      for host in range(hosts)
    ]
    for (step, kind, whole), *parts in zip(reference[start:], *shares, strict=True):
      assert all(part[:2] == (step, kind) for part in parts)
      joined = jax.tree.map(lambda *rows: np.concatenate(rows), *[part[2] for part in parts])
      assert _hash(joined) == _hash(whole)


def test_bad_images_give_way_to_one_of_their_orientation():
  specs = {"box": GROUPED["box"]}
  batches = _grouped(0, 12, specs, source=_with_bad(1, 4), skip_bad_images=True)
  expected = _grouped(0, 12, specs, source=FakeSource([_record(i) for i in (0, 3, 2, 3, 0, 5)]))
  # 1 gives way to 3, not to 2; 4 to 0, not to 5.
  assert [_hash(b) for _, _, b in batches] == [_hash(b) for _, _, b in expected]
  with pytest.raises(ValueError, match=r"None of the 6 images .* place of image [135]"):
    _grouped(0, 12, specs, source=_with_bad(1, 3, 5), skip_bad_images=True)


def test_cache_changes_nothing_but_the_number_of_reads():
  plain = [_hash(batch) for _, _, batch in _batches(0, 9)]
  before = sum(source.reads for source in SOURCES.values())
  cached = [_hash(batch) for _, _, batch in _batches(0, 9, cache=True, threads=0)]
  assert cached == plain
  assert sum(source.reads for source in SOURCES.values()) - before == 3 * 6


def test_small_images_assemble_quickly_with_the_cache():
  records = [_record(i, image=_png(128, 128, i), height=128, width=128) for i in range(8)]
  sources, specs = {"box": FakeSource(records)}, {"box": _spec(batch_size=8, canvas=(128, 128))}
  specs["box"] = dataclasses.replace(specs["box"], short_sides=(128,), max_side=128)
  sampler = batching.make_sampler(0, ("box",), sources, specs)
  batches = batching.train_batches(sources, specs, sampler, 0, 30, cache=True, threads=0)
  next(batches)
  seconds = []
  for _ in range(20):
    start = time.process_time()
    next(batches)
    seconds.append(time.process_time() - start)
  assert min(seconds) < 0.01


def test_evaluation_covers_every_record_once():
  for hosts in (1, 2):
    shares = [
      list(batching.eval_batches(_source(), _spec("eval"), host_index=host, host_count=hosts))
      for host in range(hosts)
    ]
    batches = [
      jax.tree.map(lambda *rows: np.concatenate(rows), *parts)
      for parts in zip(*shares, strict=True)
    ]
    assert [batch.images.shape for batch in batches] == [(4, 44, 44, 3)] * 2
    ids = np.concatenate([batch.image_ids[batch.valid] for batch in batches])
    assert ids.tolist() == list(range(100, 106))
    assert batches[-1].valid.tolist() == [True, True, False, False]
    assert batches[0].sizes.tolist() == [[24, 36], [34, 24]] * 2
    assert batches[0].original_sizes.tolist() == [[20, 30], [20, 14]] * 2
    assert batches[0].ground_truth is batches[0].regions is batches[0].pseudo_boxes is None


def _with_bad(*bad, count=6):
  changes = {"image": _png(20, 30, 0)[:60]}
  return FakeSource([_record(i, **(changes if i in bad else {})) for i in range(count)])


def _box_batches(source, steps=3, **options):
  specs = {"box": _spec()}
  sampler = batching.make_sampler(0, ("box",), {"box": source}, specs)
  return list(batching.train_batches({"box": source}, specs, sampler, 0, steps, **options))


@pytest.mark.parametrize("threads", [0, 2])
def test_bad_image_stops_and_names_its_file(threads):
  with pytest.raises(ValueError, match=r"3\.png.*\(id 103"):
    _box_batches(_with_bad(3), threads=threads)
  with pytest.raises(ValueError, match=r"3\.png.*\(id 103"):
    list(batching.eval_batches(_with_bad(3), _spec("eval"), threads=threads))


def test_bad_images_give_way_to_the_next_good_one_with_a_counted_warning(caplog):
  batches = _box_batches(_with_bad(3, 4), skip_bad_images=True)
  expected = _box_batches(FakeSource([_record(i) for i in (0, 1, 2, 5, 5, 5)]))
  assert [_hash(b) for _, _, b in batches] == [_hash(b) for _, _, b in expected]
  warnings = [r.getMessage() for r in caplog.records if "Skipped bad image" in r.getMessage()]
  assert len(warnings) == 2 and "2 so far" in warnings[1]


def test_bad_images_are_not_valid_in_evaluation():
  batches = list(batching.eval_batches(_with_bad(1), _spec("eval"), skip_bad_images=True))
  assert batches[0].valid.tolist() == [True, False, True, True]


def test_a_source_of_bad_images_alone_does_not_loop_for_ever():
  with pytest.raises(ValueError, match="None of the 2 images"):
    _box_batches(_with_bad(0, 1, count=2), skip_bad_images=True)


_NO_TEACHERS = {
  "region_boxes": np.zeros((0, 4), np.float32),
  "region_embeddings": np.zeros((0, DIM), np.float32),
  "pseudo_boxes": np.zeros((0, 4), np.float32),
  "pseudo_labels": np.zeros(0, np.int32),
}
_NAN = {"region_embeddings": np.full((3, DIM), np.nan, np.float32)}


@pytest.mark.parametrize(
  ("kind", "record", "spec", "message"),
  [
    ("box", {}, {"max_boxes": 1}, r"1\.png \(id 101\) has 2 .* max_boxes = 1: raise max_boxes"),
    ("box", {}, {"canvas": (16, 44)}, r"1\.png \(id 101\) is 20 x 14.*enlarge the canvas"),
    ("box", {}, {"embedding_dim": 8}, r"clip_embeddings of 1\.png \(id 101\).*embedding_dim = 8"),
    ("box", _NAN, {}, r"clip_embeddings of 1\.png.*not finite"),
    ("image", _NO_TEACHERS, {}, r"1\.png.*precompute"),
  ],
)
def test_bad_records_name_themselves_and_the_remedy(kind, record, spec, message):
  with pytest.raises(ValueError, match=message):
    _one(kind, _record(1, **record), **spec)


def test_a_record_without_caption_names_itself():
  sources = {"caption": _source(captions=())}
  specs = {"caption": SPECS["caption"]}
  sampler = batching.make_sampler(0, ("caption",), sources, specs)
  with pytest.raises(ValueError, match=r"10\d\) has no caption"):
    list(batching.train_batches(sources, specs, sampler, 0, 1))


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"kind": "boxes"}, "kind is 'boxes'"),
    ({"kind": "caption"}, "needs a tokenizer"),
    ({"short_sides": ()}, "needs short_sides"),
    ({"kind": "eval", "flip": True}, "one short side and no flip"),
    ({"batch_size": 0}, "batch_size is 0"),
    ({"scale_groups": 3}, "scale_groups is 3; expected 1 up to .* short_sides, 2"),
  ],
)
def test_bad_specs_are_refused(settings, message):
  with pytest.raises(ValueError, match=message):
    _spec(**settings)


def test_a_sampler_of_another_data_set_is_refused():
  sampler = batching.make_sampler(0, ("box",), {"box": _source(5)}, {"box": _spec()})
  with pytest.raises(ValueError, match=r"\(5, 4\).*\(6, 4\)"):
    batching.train_batches({"box": _source(6)}, {"box": _spec()}, sampler, 0, 1)
  with pytest.raises(ValueError, match=r"canvas \(26, 48\) of kind 'box' differ in whether lying"):
    batching.train_batches({"box": _source(5)}, {"box": GROUPED["box"]}, sampler, 0, 1)
