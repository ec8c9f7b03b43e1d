"""What batches hold, that they depend on (seed, step) alone, and what stops them."""

import dataclasses
import time

import jax
import numpy as np
import pytest
from made_records import CAPTIONS, FakeSource, digest, make_record, make_source, make_spec, png

from rkd_jax.inputs import batching
from rkd_jax.inputs.plan import Plan
from rkd_jax.inputs.sampler import Repeats

SPECS = {
  "box": make_spec("box"),
  "image": make_spec("image", batch_size=8, short_sides=(12,)),
  "caption": CAPTIONS,
}
SOURCES = {kind: make_source() for kind in SPECS}


def _batches(start=0, stop=6, seed=0, **options):
  plan = Plan(seed, ("box", "image", "caption"), SOURCES, SPECS)
  return list(batching.train_batches(plan, start, stop, **options))


def test_caption_batch_pairs_images_with_tokens():
  (_, _, batch), *_ = [entry for entry in _batches() if entry[1] == "caption"]
  assert batch.images.shape == (4, 16, 16, 3)
  assert batch.tokens.dtype == np.int32
  assert {tuple(row) for row in batch.tokens.tolist()} <= {(10, ord("a")), (15, ord("t"))}


@pytest.mark.parametrize("hosts", [1, 2, 4])
@pytest.mark.parametrize("threads", [0, 3])
def test_batches_do_not_depend_on_the_number_of_hosts_and_threads(hosts, threads):
  shares = [_batches(host_index=host, host_count=hosts, threads=threads) for host in range(hosts)]
  for reference, *parts in zip(_batches(), *shares, strict=True):
    step, kind, whole = reference
    assert all(part[:2] == (step, kind) for part in parts)
    joined = jax.tree.map(lambda *rows: np.concatenate(rows), *[part[2] for part in parts])
    assert digest(joined) == digest(whole)


def test_batches_after_a_restart_are_the_same():
  hashes = [digest(batch) for _, _, batch in _batches(0, 6)]
  assert [step for step, _, _ in _batches(4, 6)] == [4, 5]
  assert [digest(batch) for _, _, batch in _batches(4, 6)] == hashes[4:]
  assert len(set(hashes)) == 6
  assert hashes[0] != digest(_batches(0, 1, seed=1)[0][2])
  assert _batches(6, 6) == []


# Records 1, 3 and 5 stand (20 x 14), the others lie (20 x 30).
GROUPED = {
  "box": make_spec("box", canvas=(26, 48), short_sides=(12, 16, 20, 26), max_side=44),
  "image": make_spec("image", canvas=(12, 24), short_sides=(12,), max_side=24),
}
REPEATS = {
  form: {"box": Repeats(np.array([1, 1, 1.5, 2, 1, 1]), form)}
  for form in ("stochastic", "fractional")
}


def _grouped(start, stop, specs=GROUPED, repeats=None, source=None, **options):
  sources = dict.fromkeys(specs, source or SOURCES["box"])
  plan = Plan(0, tuple(specs), sources, specs, repeats or {})
  return list(batching.train_batches(plan, start, stop, **options))


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


def test_squares_stand():
  source = FakeSource(make_record(0, height=20, width=width) for width in (20, 21))
  sampler = Plan(0, ("box",), {"box": source}, GROUPED).sampler
  assert sampler.standing["box"].tolist() == [True, False]


def test_a_program_is_compiled_once_for_each_orientation():
  step = jax.jit(lambda batch, kind: sum(x.sum() for x in jax.tree.leaves(batch)), static_argnums=1)
  for _, kind, batch in _grouped(0, 40):
    step(batch, kind)
  assert step._cache_size() == 4


def test_images_of_a_batch_draw_from_one_group_of_short_sides():
  """On a canvas as high as the group needs, in multiples of 32."""
  sides = (16, 24, 32, 48, 56)
  spec = make_spec(canvas=(60, 100), short_sides=sides, max_side=100, scale_groups=2)
  found = {}
  for _, _, batch in _grouped(0, 60, {"box": spec}):
    found.setdefault(batch.images.shape[1:3], set()).update(batch.sizes.min(axis=1).tolist())
  low, high = {16, 24, 32}, {48, 56}
  assert found == {(32, 100): low, (100, 32): low, (60, 100): high, (100, 60): high}


def test_groups_change_no_scale_s_frequency():
  """Chi-square over 3,000 batches; 13.8 is the 0.1 % point of 2 degrees of freedom."""
  spec = make_spec(short_sides=tuple(range(1, 9)), scale_groups=3)
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
  assert len({digest(batch) for _, _, batch in reference}) == 24
  for start in (0, 17):
    shares = [
      _grouped(start, 24, host_index=host, host_count=hosts, threads=host % 3, **options)
      for host in range(hosts)
    ]
    for (step, kind, whole), *parts in zip(reference[start:], *shares, strict=True):
      assert all(part[:2] == (step, kind) for part in parts)
      joined = jax.tree.map(lambda *rows: np.concatenate(rows), *[part[2] for part in parts])
      assert digest(joined) == digest(whole)


def test_bad_images_give_way_to_one_of_their_orientation():
  specs = {"box": GROUPED["box"]}
  batches = _grouped(0, 12, specs, source=_with_bad(1, 4), skip_bad_images=True)
  expected = _grouped(0, 12, specs, source=FakeSource([make_record(i) for i in (0, 3, 2, 3, 0, 5)]))
  # 1 gives way to 3, not to 2; 4 to 0, not to 5.
  assert [digest(b) for _, _, b in batches] == [digest(b) for _, _, b in expected]
  with pytest.raises(ValueError, match=r"None of the 6 images .* place of image [135]"):
    _grouped(0, 12, specs, source=_with_bad(1, 3, 5), skip_bad_images=True)


def test_cache_changes_nothing_but_the_number_of_reads():
  plain = [digest(batch) for _, _, batch in _batches(0, 9)]
  before = sum(source.reads for source in SOURCES.values())
  cached = [digest(batch) for _, _, batch in _batches(0, 9, cache=True, threads=0)]
  assert cached == plain
  assert sum(source.reads for source in SOURCES.values()) - before == 3 * 6


def test_small_images_assemble_quickly_with_the_cache():
  records = [make_record(i, image=png(128, 128, i), height=128, width=128) for i in range(8)]
  sources, specs = {"box": FakeSource(records)}, {"box": make_spec(batch_size=8, canvas=(128, 128))}
  specs["box"] = dataclasses.replace(specs["box"], short_sides=(128,), max_side=128)
  plan = Plan(0, ("box",), sources, specs)
  batches = batching.train_batches(plan, 0, 30, cache=True, threads=0)
  next(batches)
  seconds = []
  for _ in range(20):
    start = time.process_time()
    next(batches)
    seconds.append(time.process_time() - start)
  assert min(seconds) < 0.01


def test_evaluation_covers_every_record_once():
  batches = list(batching.eval_batches(make_source(), make_spec("eval")))
  assert [batch.images.shape for batch in batches] == [(4, 44, 44, 3)] * 2
  ids = np.concatenate([batch.image_ids[batch.valid] for batch in batches])
  assert ids.tolist() == list(range(100, 106))
  assert batches[-1].valid.tolist() == [True, True, False, False]
  assert batches[0].sizes.tolist() == [[24, 36], [34, 24]] * 2
  assert batches[0].original_sizes.tolist() == [[20, 30], [20, 14]] * 2
  assert batches[0].ground_truth is batches[0].regions is batches[0].pseudo_boxes is None


def test_hosts_take_turns_with_the_batches_of_evaluation():
  source, spec = make_source(), make_spec("eval")
  spec = dataclasses.replace(spec, batch_size=2)
  alone = [digest(batch) for batch in batching.eval_batches(source, spec)]
  shares = [list(map(digest, batching.eval_batches(source, spec, i, 2))) for i in range(2)]
  assert len(alone) == 3 and shares == [alone[::2], alone[1::2]]
  assert list(batching.eval_batches(source, spec, 3, 4)) == []


def _with_bad(*bad, count=6):
  changes = {"image": png(20, 30, 0)[:60]}
  return FakeSource([make_record(i, **(changes if i in bad else {})) for i in range(count)])


def _box_batches(source, steps=3, **options):
  plan = Plan(0, ("box",), {"box": source}, {"box": make_spec()})
  return list(batching.train_batches(plan, 0, steps, **options))


@pytest.mark.parametrize("threads", [0, 2])
def test_bad_image_stops_and_names_its_file(threads):
  with pytest.raises(ValueError, match=r"3\.png.*\(id 103"):
    _box_batches(_with_bad(3), threads=threads)
  with pytest.raises(ValueError, match=r"3\.png.*\(id 103"):
    list(batching.eval_batches(_with_bad(3), make_spec("eval"), threads=threads))
  with pytest.raises(ValueError, match=r"3\.png.*\(id 103"):
    _box_batches(_with_bad(3), threads=threads, place=digest)


@pytest.mark.parametrize("threads", [0, 2])
def test_each_batch_is_placed_once_and_in_order(threads):
  placed = []

  def place(batch):
    placed.append(digest(batch))
    return placed[-1]

  found = _batches(threads=threads, place=place)
  assert found == [(step, kind, digest(batch)) for step, kind, batch in _batches()]
  assert placed == [batch for _, _, batch in found]


@pytest.mark.parametrize("threads", [0, 2])
def test_a_batch_that_cannot_be_placed_says_why(threads):
  def place(batch):
    raise ValueError("does not divide")

  with pytest.raises(ValueError, match="does not divide"):
    _batches(threads=threads, place=place)


def test_bad_images_give_way_to_the_next_good_one_with_a_counted_warning(caplog):
  batches = _box_batches(_with_bad(3, 4), skip_bad_images=True)
  expected = _box_batches(FakeSource([make_record(i) for i in (0, 1, 2, 5, 5, 5)]))
  assert [digest(b) for _, _, b in batches] == [digest(b) for _, _, b in expected]
  warnings = [r.getMessage() for r in caplog.records if "Skipped bad image" in r.getMessage()]
  assert len(warnings) == 2 and "2 so far" in warnings[1]


def test_bad_images_are_not_valid_in_evaluation():
  batches = list(batching.eval_batches(_with_bad(1), make_spec("eval"), skip_bad_images=True))
  assert batches[0].valid.tolist() == [True, False, True, True]


def test_a_source_of_bad_images_alone_does_not_loop_for_ever():
  with pytest.raises(ValueError, match="None of the 2 images"):
    _box_batches(_with_bad(0, 1, count=2), skip_bad_images=True)


def test_a_record_without_caption_names_itself():
  plan = Plan(0, ("caption",), {"caption": make_source(captions=())}, SPECS)
  with pytest.raises(ValueError, match=r"10\d\) has no caption"):
    list(batching.train_batches(plan, 0, 1))
