"""The command that fetches published weights, from a server on this machine."""

import hashlib
import http.server
import os
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rkd_jax.weights import download as module
from rkd_jax.weights import published
from tests.web_server import serving

REPOSITORY = Path(__file__).parents[2]
CONTENT = np.random.default_rng(0).bytes(200_000)
SUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
  """Runs the command in an empty folder; gives the exit code and what it printed."""
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("NO_PROXY", "127.0.0.1")

  def run(*arguments):
    monkeypatch.setattr(sys, "argv", ["rkd-jax download", *arguments])
    try:
      module.main()
      code = 0
    except SystemExit as stop:
      code = stop.code
    return code, capsys.readouterr()

  return run


@pytest.fixture
def mirror(command):
  with serving(CONTENT) as site:
    site.root = site.address.rpartition("/")[0]
    yield site


def test_the_list_has_every_name_with_its_licence(command):
  code, printed = command("--list")
  lines = printed.out.splitlines()
  assert code == 0 and [line.split()[0] for line in lines] == list(published.BY_NAME)
  (mavl,) = (line for line in lines if line.startswith("mavl "))
  assert "size not stated; MIT (its repository); by hand, in a browser" in mavl


def test_a_mirror_gives_the_files_and_the_command_that_reads_them(command, mirror, tmp_path):
  code, printed = command("coco_ovd_rkd", "r-50", f"--mirror={mirror.root}")
  assert code == 0 and (tmp_path / "weights" / "coco_ovd_rkd.pth").read_bytes() == CONTENT
  first, licence, reader, second = printed.out.splitlines()[:4]
  assert first.startswith("weights/coco_ovd_rkd.pth: 200,000 bytes, SHA-256 " + SUM)
  assert "(none is published; kept beside it)" in first
  assert licence == "  licence: Apache-2.0 (its repository)"
  assert reader.endswith("--input=weights/coco_ovd_rkd.pth --output=runs/coco/rkd")
  assert second.startswith("weights/R-50.pkl: ")
  _, printed = command("r-50")
  assert printed.out.splitlines()[0].endswith(f"SHA-256 {SUM} (as it was before)")


def test_files_of_one_name_lie_in_their_folder(command, mirror):
  code, printed = command("roberta-base", "--output=elsewhere/", f"--mirror={mirror.root}")
  assert code == 0 and sorted(os.listdir("elsewhere/roberta-base")) == [
    "merges.txt",
    "merges.txt.sha256",
    "vocab.json",
    "vocab.json.sha256",
  ]
  assert "--vocabulary=elsewhere/roberta-base/vocab.json" in printed.out


def test_what_is_not_the_published_file_is_refused(command, mirror):
  code, _ = command("ViT-B-32.pt", f"--mirror={mirror.root}")
  assert f"/ViT-B-32.pt has the SHA-256 {SUM}, and is published with 40d36571" in code
  assert not os.listdir("weights")


def test_what_lies_behind_a_page_is_said_and_checked_when_it_is_there(command):
  code, _ = command("mavl")
  assert "a page that only a browser gets through. Open https://mbzuaiac-my.share" in code
  assert "save it as weights/MDef_DETR_r101_epoch20.pth" in code
  assert not os.path.exists("weights")
  os.mkdir("weights")
  Path("weights/MDef_DETR_r101_epoch20.pth").write_bytes(CONTENT)
  code, printed = command("mavl")
  assert code == 0 and SUM in printed.out


def test_a_copy_of_the_folder_on_any_server_is_a_mirror(command, mirror, tmp_path):
  """Python's own server knows no ranges."""
  command("roberta-base", "--output=first", f"--mirror={mirror.root}")

  class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
      pass

  server = http.server.HTTPServer(("127.0.0.1", 0), partial(Quiet, directory=tmp_path / "first"))
  thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
  thread.start()
  try:
    code, _ = command("roberta-base", f"--mirror=http://127.0.0.1:{server.server_port}")
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
  assert code == 0 and Path("weights/roberta-base/vocab.json").read_bytes() == CONTENT


@pytest.mark.parametrize(
  "arguments, said",
  [
    (["coco-ovd-rdk"], "Did you mean coco-ovd-rkd"),
    ([], "which weights?"),
    (["mavl", "--output=gs://bucket"], "expected a folder of this machine"),
  ],
)
def test_mistakes_are_named(command, arguments, said):
  code, printed = command(*arguments)
  assert said in f"{code} {printed.err}"


@pytest.mark.door
def test_control_c_leaves_what_arrived_and_the_next_run_goes_on(mirror, tmp_path):
  mirror.cuts, mirror.stalls = [100_000], threading.Event()
  arguments = ["download", "r-50", f"--mirror={mirror.root}"]
  start = partial(
    subprocess.Popen,
    [sys.executable, "-m", "rkd_jax.cli", *arguments],
    cwd=tmp_path,
    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  part = tmp_path / "weights" / "R-50.pkl.part"
  process = start()
  while not part.exists() or part.stat().st_size < 100_000:
    assert process.poll() is None
  process.send_signal(signal.SIGINT)
  _, said = process.communicate(timeout=60)
  assert process.returncode == 130 and said.splitlines()[-1].startswith("Stopped; the same command")
  assert "Traceback" not in said
  mirror.stalls.set()
  process = start()
  said, _ = process.communicate(timeout=60)
  assert process.returncode == 0 and SUM in said
  assert mirror.asked == [None, "bytes=100000-"]
