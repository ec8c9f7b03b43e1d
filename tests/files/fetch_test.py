"""Fetching a file: from a server on this machine, through everything that goes wrong on the way."""

import fcntl
import functools
import hashlib
import json
import os
import shutil
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from rkd_jax.files import fetch as module
from rkd_jax.files.fetch import FetchError
from tests.web_server import serving

CONTENT = np.random.default_rng(0).bytes(300_000)
SUM = hashlib.sha256(CONTENT).hexdigest()
OTHER = CONTENT[::-1]
fetch = functools.partial(module.fetch, pause=0, timeout=5)


@pytest.fixture
def site(monkeypatch):
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")
  with serving(CONTENT) as site:
    yield site


@pytest.fixture
def target(tmp_path):
  return tmp_path / "folder" / "weights.pth"


def _names(target):
  return sorted(os.listdir(target.parent))


def _stop_after(site, target, count):
  """Leaves `count` bytes of the file in its .part, as a connection that is cut does."""
  site.cuts = [count]
  with pytest.raises(FetchError, match=r"keeps the .* bytes that arrived"):
    fetch(site.address, target, tries=1)
  site.asked.clear()


def test_a_file_arrives_whole_with_its_sum_beside_it(site, target):
  assert fetch(site.address, target) == SUM
  assert target.read_bytes() == CONTENT
  assert _names(target) == ["weights.pth", "weights.pth.sha256"]
  assert (target.parent / "weights.pth.sha256").read_text() == f"{SUM}  weights.pth\n"


def test_a_file_that_is_there_is_checked_and_not_fetched(site, target):
  fetch(site.address, target)
  site.asked.clear()
  assert fetch(site.address, target) == fetch(site.address, target, SUM) == SUM
  target.write_bytes(OTHER)
  with pytest.raises(FetchError, match=r"had, by weights.pth.sha256, .*Move it away"):
    fetch(site.address, target)
  with pytest.raises(FetchError, match=f"is published with {SUM}"):
    fetch(site.address, target, SUM)
  assert target.read_bytes() == OTHER and not site.asked


def test_a_file_that_came_by_hand_is_remembered(target):
  target.parent.mkdir()
  target.write_bytes(CONTENT)
  assert fetch("http://127.0.0.1:9/nobody", target) == SUM
  assert (target.parent / "weights.pth.sha256").read_text().startswith(SUM)


def test_a_connection_that_is_cut_is_taken_up_where_it_ended(site, target):
  site.cuts = [100_000, 50_000]
  assert fetch(site.address, target, SUM) == SUM
  assert site.asked == [None, "bytes=100000-", "bytes=150000-"]


def test_a_later_call_goes_on(site, target):
  _stop_after(site, target, 123_456)
  assert (target.parent / "weights.pth.part").stat().st_size == 123_456
  assert fetch(site.address, target, SUM) == SUM
  assert site.asked == ["bytes=123456-"]


def test_a_whole_part_is_not_asked_for_again(site, target):
  """The process ended between the last byte and the new name."""
  _stop_after(site, target, 1)
  (target.parent / "weights.pth.part").write_bytes(CONTENT)
  assert fetch(site.address, target) == SUM and not site.asked


@pytest.mark.parametrize("conditions", [True, False])
def test_a_file_that_changed_begins_anew(site, target, conditions):
  """Also at a server that answers with a part of the new file, whatever If-Range says."""
  _stop_after(site, target, 100_000)
  site.content, site.tag, site.conditions = OTHER, '"2"', conditions
  fetch(site.address, target)
  assert target.read_bytes() == OTHER
  assert site.asked == ["bytes=100000-"] + [None] * (not conditions)


def test_a_file_that_became_shorter_begins_anew(site, target):
  _stop_after(site, target, 100_000)
  site.content, site.conditions = CONTENT[:9_000], False
  fetch(site.address, target)
  assert target.read_bytes() == CONTENT[:9_000] and site.asked == ["bytes=100000-", None]


def test_a_server_without_ranges_begins_anew(site, target):
  _stop_after(site, target, 100_000)
  site.ranges = False
  assert fetch(site.address, target) == SUM and target.read_bytes() == CONTENT


@pytest.mark.parametrize(
  "tag, changed, asked",
  [
    (None, "Sat, 01 Oct 2022 10:00:00 GMT", "bytes=100000-"),
    ('W/"1"', "Sat, 01 Oct 2022 10:00:00 GMT", "bytes=100000-"),
    ('W/"1"', None, None),
    (None, None, None),
  ],
)
def test_without_a_strong_tag_the_time_of_change_decides(site, target, tag, changed, asked):
  site.tag, site.changed = tag, changed
  _stop_after(site, target, 100_000)
  assert fetch(site.address, target) == SUM and site.asked == [asked]


def test_a_part_of_another_address_is_not_gone_on_with(site, target):
  _stop_after(site, target, 100_000)
  assert fetch(f"{site.address}?other", target) == SUM and site.asked == [None]


@pytest.mark.parametrize("note", ["", "{}", "[1]", '{"address": 1}', "\x00"])
def test_a_damaged_note_begins_anew(site, target, note):
  _stop_after(site, target, 100_000)
  (target.parent / "weights.pth.part.json").write_text(note)
  assert fetch(site.address, target) == SUM and site.asked == [None]


def test_redirections_are_followed_with_the_range(site, target):
  path = "/resolve/weights.pth"
  first = site.address.replace("/folder/weights.pth", path)
  site.moved[path] = site.address
  _stop_after(site, target, 100_000)
  (target.parent / "weights.pth.part.json").write_text(
    json.dumps({"address": first, "validator": '"1"', "length": 300_000})
  )
  assert fetch(first, target) == SUM
  assert site.asked == ["bytes=100000-", "bytes=100000-"]


def test_another_file_than_the_published_one_is_not_kept(site, target):
  with pytest.raises(FetchError, match=f"has the SHA-256 {SUM}, and is published with 0{{64}}"):
    fetch(site.address, target, "0" * 64)
  assert _names(target) == []


def test_a_page_is_not_saved_as_weights(site, target):
  site.kind = "text/html; charset=utf-8"
  with pytest.raises(FetchError, match=r"a page for a browser.* save the file as .*weights\.pth"):
    fetch(site.address, target)
  site.kind, site.content = "application/octet-stream", b"\n<!DOCTYPE html><title>Sign in</title>"
  with pytest.raises(FetchError, match=r"is a web page \(it begins with <!DOCTYPE.*By hand"):
    fetch(site.address, target)
  site.content = b'{"error": "rate limit"}'
  with pytest.raises(FetchError, match=r"is JSON"):
    fetch(site.address, target)
  assert _names(target) == []
  fetch(site.address, target.with_name("vocab.json"))
  assert _names(target) == ["vocab.json", "vocab.json.sha256"]


def test_an_empty_answer_is_no_file(site, target):
  site.content = b""
  with pytest.raises(FetchError, match="is empty"):
    fetch(site.address, target)
  assert _names(target) == []


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_answer_without_the_file_is_said_at_once(site, target, status):
  site.statuses = [status]
  with pytest.raises(FetchError, match=rf"{site.address} answers {status}.*By hand: open"):
    fetch(site.address, target)
  assert len(site.asked) == 1 and _names(target) == []


def test_a_busy_server_is_asked_again(site, target):
  site.statuses = [503, 429]
  assert fetch(site.address, target) == SUM and len(site.asked) == 3


def test_it_is_not_asked_for_ever(site, target):
  site.statuses = [503] * 9
  with pytest.raises(FetchError, match=r"cannot be reached.*503"):
    fetch(site.address, target, tries=3)
  assert len(site.asked) == 3 and _names(target) == []


def test_a_server_that_stalls_counts_as_cut(site, target):
  site.cuts, site.stalls = [100_000], threading.Event()
  with pytest.raises(FetchError, match=r"timed out.*keeps the 100,000 bytes"):
    fetch(site.address, target, tries=1, timeout=0.2)
  site.stalls.set()
  assert fetch(site.address, target) == SUM


def test_a_length_that_nobody_said_ends_with_the_connection(site, target):
  site.says_length = False
  assert fetch(site.address, target) == SUM


def test_offline_the_sentence_says_proxies_and_the_way_by_hand(target, monkeypatch):
  for name in ("https_proxy", "http_proxy", "HTTP_PROXY", "NO_PROXY", "no_proxy"):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy.invalid:3128")
  with pytest.raises(FetchError) as raised:
    fetch("http://127.0.0.1:9/a.pth", target)
  said = str(raised.value)
  assert (
    "http://127.0.0.1:9/a.pth cannot be reached" in said and f"save the file as {target}" in said
  )
  assert "(now: HTTPS_PROXY=http://proxy.invalid:3128)" in said and "secret" not in said
  assert _names(target) == []


def test_the_disk_must_have_room(site, target, monkeypatch):
  monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=299_999))
  with pytest.raises(FetchError, match="needs 300,000 bytes more, and 299,999 are free"):
    fetch(site.address, target)
  assert target.name not in _names(target)


def test_a_disk_that_fills_up_keeps_what_arrived(site, target, monkeypatch):
  class Full:
    def __init__(self, file):
      self.file = file

    def __getattr__(self, name):
      return getattr(self.file, name)

    def write(self, chunk):
      if (room := 70_000 - self.file.tell()) <= 0:
        raise OSError(28, "No space left on device")
      return self.file.write(chunk[:room])

  own = module._own

  @module.contextlib.contextmanager
  def full(*args):
    with own(*args) as part:
      yield Full(part)

  with monkeypatch.context() as patch:
    patch.setattr(module, "_own", full)
    with pytest.raises(FetchError, match=r"the disk is full.*keeps the 70,000 bytes"):
      fetch(site.address, target)
  site.asked.clear()
  assert fetch(site.address, target) == SUM and site.asked == ["bytes=70000-"]


def test_an_interrupt_leaves_the_part(site, target, monkeypatch):
  def interrupt(*_):
    raise KeyboardInterrupt

  site.cuts = [100_000]
  with monkeypatch.context() as patch:
    patch.setattr(module.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
      fetch(site.address, target)
  assert _names(target) == ["weights.pth.part", "weights.pth.part.json"]
  site.asked.clear()
  assert fetch(site.address, target) == SUM and site.asked == ["bytes=100000-"]


def test_two_processes_do_not_fetch_the_same_file(site, target):
  _stop_after(site, target, 100_000)
  with open(target.parent / "weights.pth.part", "ab") as other:
    fcntl.flock(other, fcntl.LOCK_EX)
    with pytest.raises(FetchError, match="is being fetched by another process"):
      fetch(site.address, target)
  assert fetch(site.address, target) == SUM


def test_a_folder_that_cannot_be_made_is_named(site, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(FetchError, match=r"file cannot be made: .*Say another folder"):
    fetch(site.address, tmp_path / "file" / "weights.pth")
