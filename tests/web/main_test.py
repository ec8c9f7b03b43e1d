"""The command from a run's folder to an answer over HTTP."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="Gradio is the extra `web`")

import httpx

import rkd_jax
from tests import demo_project

pytestmark = pytest.mark.door
REPOSITORY = Path(__file__).parents[2]
RUNS = ("runs/demo/base/seed0", "runs/demo/rkd/seed0")


def command(*arguments, before="pass"):
  code = f"import runpy, sys; {before}; sys.argv = ['rkd-jax web', *{arguments!r}]; "
  return [sys.executable, "-c", code + "runpy.run_module('rkd_jax.web', run_name='__main__')"]


def ended(*arguments, before="pass"):
  environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
  return subprocess.run(
    command(*arguments, before=before), env=environment, capture_output=True, text=True, timeout=120
  )


@contextlib.contextmanager
def started(folder, *arguments):
  """The process of the command and its address."""
  process = subprocess.Popen(
    command(*arguments, "--port=0"),
    cwd=folder,
    env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    yield process, process.stdout.readline().split()[1]
  finally:
    process.kill()
    process.wait()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("project")
  with pytest.MonkeyPatch.context() as patch:
    patch.chdir(folder)
    demo_project.build(folder)
  return folder


def test_an_answer_is_what_python_finds(folder, monkeypatch):
  monkeypatch.chdir(folder)
  words = ["solid red star", "dotted blue fish"]
  expected = rkd_jax.load(RUNS[1])("photos/1.png", words, min_score=0.0).to_coco(1)
  with started(folder, *RUNS) as (process, address), httpx.Client(timeout=300) as client:
    page = client.get(address)
    assert page.status_code == 200 and all(run in page.text for run in RUNS)
    assert page.text.count("/0_") >= 1  # the first of the images of validation
    content = (folder / "photos/1.png").read_bytes()
    fields = {"words": ", ".join(words), "min_score": "0", "run": RUNS[1]}
    answer = client.post(f"{address}/predict", files={"image": content}, data=fields).json()
    found = [{key: row[key] for key in expected[0]} for row in answer["annotations"]]
    assert len(expected) > 0 and found == expected
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 0


def test_a_host_that_others_reach_is_warned_of(folder):
  with started(folder, RUNS[0], "--host=0.0.0.0") as (process, address):
    port = address.rpartition(":")[2]
    assert httpx.get(f"http://127.0.0.1:{port}/health", timeout=60).status_code == 200
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
  assert "Warning: everybody who reaches 0.0.0.0 can use this page" in err


def test_what_is_wrong_is_a_sentence(folder, tmp_path):
  done = ended()
  assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("Say which run")
  done = ended(str(tmp_path / "none"))
  assert done.returncode == 1 and "Traceback" not in done.stderr and "none" in done.stderr
  done = ended(str(folder / RUNS[0]), "--clip=nowhere.pt")
  assert done.returncode == 1 and "Traceback" not in done.stderr and "nowhere.pt" in done.stderr


def test_without_gradio_it_says_what_to_install():
  done = ended("runs/x", before="sys.modules['gradio'] = None")
  assert done.returncode == 1 and "pip install 'rkd_jax[web]'" in done.stderr
