"""The endpoint, asked over HTTP of a server with runs that compute nothing, and its end."""

import base64
import concurrent.futures
import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="Gradio is the extra `web`")

import httpx

from rkd_jax.web import page, server
from tests import made_looker as made

pytestmark = pytest.mark.door

REPOSITORY = Path(__file__).parents[2]


@contextlib.contextmanager
def running(looker, examples=lambda folder: []):
  """The address of a server, which is stopped at the end."""
  with server.serving(looker, "127.0.0.1", 0, examples) as (running, bound, address):
    thread = threading.Thread(target=running.run, args=([bound],), daemon=True)
    thread.start()
    try:
      yield address
    finally:
      running.should_exit = True
      thread.join(30)
      assert not thread.is_alive()


@pytest.fixture(scope="module")
def looker():
  return made.looker(made.detector(), made.detector(clip=True), max_megabytes=0.02)


@pytest.fixture(scope="module")
def address(looker):
  with running(looker) as address:
    yield address


@pytest.fixture(scope="module")
def client(address):
  with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
    yield client


def test_health_tells_the_runs(client):
  answer = client.get("/health").json()
  assert answer["status"] == "ok" and answer["runs"] == ["run0", "run1"]


def test_the_types_of_the_endpoint_are_told(client):
  told = client.get("/openapi.json").json()
  post = told["paths"]["/predict"]["post"]
  asked = post["requestBody"]["content"]["application/json"]["schema"]["properties"]
  assert list(asked) == ["image", "name", "words", "min_score", "run"]
  answered = post["responses"]["200"]["content"]["application/json"]["schema"]["$ref"]
  answer = told["components"]["schemas"][answered.rpartition("/")[2]]["properties"]
  assert set(answer) == {"run", "images", "categories", "annotations"}


def test_a_form_and_json_get_the_same_answer(client):
  image = made.encoded()
  form = client.post("/predict", files={"image": ("a.png", image)}, data={"words": "cat, dog"})
  given = {"image": base64.b64encode(image).decode(), "name": "a.png", "words": ["cat", "dog"]}
  as_json = client.post("/predict", json=given)
  assert form.status_code == as_json.status_code == 200
  assert form.json() == as_json.json()
  answer = form.json()
  assert set(answer) == {"run", "images", "categories", "annotations"}
  assert answer["images"][0]["width"] == 40
  assert [row["category"] for row in answer["annotations"]] == ["cat", "dog"]
  assert [row["score"] for row in answer["annotations"]] == [0.9, 0.5]


def test_threshold_run_and_words_are_chosen(client):
  files = {"image": ("a.png", made.encoded())}
  answer = client.post("/predict", files=files, data={"min_score": "0.05", "run": "run1"}).json()
  assert answer["run"] == "run1" and len(answer["annotations"]) == 3
  assert [category["name"] for category in answer["categories"]] == list(made.NAMES)


@pytest.mark.parametrize(
  ("name", "image", "fields", "status", "said"),
  [
    ("a.jpg", b"no picture", {}, 400, "Cannot decode a.jpg (10 bytes)"),
    ("a.png", made.huge_header(), {}, 400, "a.png is too large"),
    ("a.png", made.encoded(), {"words": "kat"}, 400, "the nearest are 'cat'"),
    ("a.png", made.encoded(), {"words": "zebra", "run": "run1"}, 400, "'zebra' is not in this"),
    ("a.png", made.encoded(), {"words": ""}, 400, "There is no word"),
    ("a.png", made.encoded(), {"words": "@/etc/passwd"}, 400, "'@/etc/passwd' is none of"),
    ("a.png", made.encoded(), {"run": "x"}, 400, "There is no run 'x' here, only run0, run1."),
    ("a.png", made.encoded(), {"min_score": "2"}, 422, "min_score: Input should be less"),
    ("a.png", made.encoded(), {"wrods": "cat"}, 422, "wrods: Extra inputs are not permitted"),
    ("../a.png", bytes(20_001), {}, 413, "a.png is larger than 0.02 MB"),
    ("a.png", bytes(400_000), {}, 413, "The request has 400,"),
  ],
)
def test_what_is_wrong_is_a_sentence(client, name, image, fields, status, said):
  answer = client.post("/predict", files={"image": (name, image)}, data=fields)
  assert (answer.status_code, set(answer.json())) == (status, {"error"})
  assert said in answer.json()["error"] and "../" not in answer.json()["error"]


@pytest.mark.parametrize(
  ("content", "kind", "status", "said"),
  [
    (b"{", "application/json", 400, "Expected a JSON object with the file in base64"),
    (b"[]", "application/json", 400, "Expected a JSON object"),
    (b'{"image": "*"}', "application/json", 400, "Expected a JSON object"),
    (b'{"image": 3}', "application/json", 400, "Expected a JSON object"),
    (b"[" * 100_000, "application/json", 400, "Expected a JSON object"),
    (b'{"words": "cat"}', "application/json", 422, "image: Field required"),
    (b"cat", "text/plain", 415, "Send multipart/form-data"),
    (b"no parts", "multipart/form-data", 400, "boundary"),
  ],
)
def test_a_malformed_request_is_a_sentence(client, content, kind, status, said):
  answer = client.post("/predict", content=content, headers={"Content-Type": kind})
  assert answer.status_code == status and said in answer.json()["error"]


def test_a_request_of_unknown_length_is_refused(client):
  answer = client.post("/predict", content=iter([b"a", b"b"]))
  assert answer.status_code == 411 and "Content-Length" in answer.json()["error"]


def test_other_sites_and_other_names_get_nothing(client):
  files = {"image": ("a.png", made.encoded())}
  answer = client.post("/predict", files=files, headers={"Origin": "https://example.org"})
  assert answer.status_code == 403
  assert client.get("/health", headers={"Host": "example.org"}).status_code == 400


@pytest.mark.parametrize("path", ["/docs", "/gradio_api/info", "/gradio_api/file/etc/passwd"])
def test_what_the_page_does_not_need_is_not_served(client, path):
  assert client.get(path).status_code == 404
  assert client.post("/gradio_api/vibe-code", json={"code": "1"}).status_code == 404


def test_files_of_the_machine_are_not_served(client, tmp_path):
  (tmp_path / "secret").write_text("cat")
  for file in (tmp_path / "secret", REPOSITORY / "README.md"):
    assert client.get(f"/gradio_api/file={file}").status_code == 403


def test_the_page_names_no_other_site(client):
  page = client.get("/")
  policy = page.headers["content-security-policy"]
  assert page.status_code == 200 and "default-src 'self'" in policy and "http" not in policy
  assert "fonts.googleapis" not in page.text and "cdnjs" not in page.text
  assert client.get("/theme.css").status_code == 200


def test_ten_at_once_are_answered_in_turn(client, looker):
  before, network = looker.computed, looker.detectors["run0"].network

  def ask(number):
    files = {"image": (f"{number}.png", made.encoded(size=(50 + number, 40)))}
    return client.post("/predict", files=files, data={"words": "cat"})

  with concurrent.futures.ThreadPoolExecutor(10) as pool:
    answers = list(pool.map(ask, range(10)))
  assert [answer.status_code for answer in answers] == [200] * 10
  widths = [answer.json()["images"][0]["width"] for answer in answers]
  assert widths == [50 + number for number in range(10)]
  assert looker.computed == before + 10 and network.most_at_once == 1


def test_too_many_at_once_are_told_to_come_again(client, looker, monkeypatch):
  monkeypatch.setattr(looker, "_waiting", threading.BoundedSemaphore(1))
  with looker._waiting:
    answer = client.post("/predict", files={"image": ("a.png", made.encoded())})
  assert answer.status_code == 503 and answer.headers["retry-after"] == "5"
  assert "requests are waiting already" in answer.json()["error"]


def test_files_are_removed_at_the_end(monkeypatch, tmp_path):
  monkeypatch.setattr(server.tempfile, "tempdir", str(tmp_path))
  with running(made.looker()) as address, httpx.Client(base_url=address) as client:
    uploaded = client.post("/gradio_api/upload", files={"files": ("a.png", made.encoded())}).json()
    assert Path(uploaded[0]).is_relative_to(tmp_path) and Path(uploaded[0]).exists()
  assert list(tmp_path.iterdir()) == []


@pytest.mark.door
def test_uploads_are_removed_in_time_and_examples_stay(monkeypatch):
  monkeypatch.setattr(page, "_REMOVAL", (1, 1))

  def examples(folder):
    (folder / "example.png").write_bytes(made.encoded())
    return [folder / "example.png"]

  with running(made.looker(), examples) as address, httpx.Client(base_url=address) as client:
    files = {"files": ("a.png", made.encoded())}
    (uploaded,) = client.post("/gradio_api/upload", files=files).json()
    (example,) = Path(uploaded).parents[1].glob("**/example.png")
    assert Path(uploaded).exists()
    for _ in range(60):
      if not Path(uploaded).exists():
        break
      time.sleep(0.5)
    assert not Path(uploaded).exists() and example.exists()
    assert client.get(f"/gradio_api/file={example}").content == made.encoded()


def test_a_taken_port_is_a_sentence(address):
  port = int(address.rpartition(":")[2])
  with (
    pytest.raises(OSError, match=f"127.0.0.1:{port}: .*Give another --port"),
    server.serving(made.looker(), "127.0.0.1", port, lambda folder: []),
  ):
    pass


@pytest.mark.parametrize(
  ("host", "local"),
  [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("a.org", False)],
)
def test_loopback(host, local):
  assert server.is_loopback(host) == local


SERVER = """
import time
from rkd_jax.web import server
from tests import made_looker

looker = made_looker.looker()
looker.detectors["run0"].network.wait = lambda: (print("looking", flush=True), time.sleep(600))
server.serve(looker, "127.0.0.1", 0, lambda folder: [])
"""


@pytest.mark.door
@pytest.mark.parametrize(
  ("number", "busy"), [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGINT, True)]
)
def test_a_signal_ends_it_and_leaves_nothing(number, busy, tmp_path):
  process = subprocess.Popen(
    [sys.executable, "-c", SERVER],
    cwd=REPOSITORY,
    env={"PATH": "", "TMPDIR": str(tmp_path)},
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  try:
    address = process.stdout.readline().split()[1]
    assert httpx.get(f"{address}/health", timeout=30).json()["status"] == "ok"
    assert len(list(tmp_path.iterdir())) == 1
    with concurrent.futures.ThreadPoolExecutor() as pool:
      if busy:
        files = {"image": ("a.png", made.encoded())}
        asked = pool.submit(httpx.post, f"{address}/predict", files=files, timeout=60)
        assert process.stdout.readline() == "looking\n"
      process.send_signal(number)
      out, err = process.communicate(timeout=60)
  finally:
    process.kill()
  if busy:
    assert asked.result().json() == {"error": "The server was stopped."}
  assert (process.returncode, out.splitlines()[-1]) == (0, "Stopped.")
  assert "Traceback" not in err
  assert list(tmp_path.iterdir()) == []
