"""The page: what each column says, and the whole of it in a browser."""

import asyncio
import hashlib
import json
import shutil
import urllib.parse

import pytest

pytest.importorskip("gradio", reason="Gradio is the extra `web`")

import gradio as gr
from PIL import Image
from pycocotools.coco import COCO

from rkd_jax.web import page
from tests import made_looker as made
from tests.web.server_test import running

pytestmark = pytest.mark.door


@pytest.fixture
def looker():
  return made.looker()


@pytest.fixture
def image(tmp_path):
  (tmp_path / "a.png").write_bytes(made.encoded())
  return str(tmp_path / "a.png")


def seen(looker, path, words, folder, least=0.3):
  return page._seen(looker, "run0", path, words, least, folder)


def test_a_column_shows_what_was_found(looker, image, tmp_path):
  said, picture, table, file = seen(looker, image, "cat, dog", tmp_path)
  assert "1 cat, 1 dog" in said and 'role="status"' in said
  assert isinstance(picture, Image.Image)
  assert table.count("<tr>") == 3 and "<td>0.90</td><td>0.0</td>" in table
  assert file.interactive and len(COCO(file.value["path"]).anns) == 2


def test_the_most_frequent_words_are_counted(looker, image, tmp_path, monkeypatch):
  monkeypatch.setattr(page, "_NAMED", 1)
  assert "1 cat, and 1 other word<" in seen(looker, image, "cat, dog", tmp_path)[0]
  assert "1 cat, and 2 other words<" in seen(looker, image, None, tmp_path, 0)[0]


def test_a_higher_score_leaves_nothing_and_says_so(looker, image, tmp_path):
  said, picture, table, _ = seen(looker, image, "cat", tmp_path, 0.95)
  assert "Nothing has a score of 0.95. The best has 0.90." in said and table == ""
  assert picture is not None


@pytest.mark.parametrize(
  ("content", "words", "expected"),
  [
    (b"no picture", "cat", "Cannot decode a.png (10 bytes)"),
    (made.huge_header(), "cat", "is too large"),
    (made.encoded(), "<b>kat</b>", "&lt;b&gt;kat&lt;/b&gt;&#x27; is none of the 3 words"),
    (made.encoded(), ",", "There is no word"),
  ],
)
def test_what_is_wrong_stands_in_the_column(looker, image, tmp_path, content, words, expected):
  (tmp_path / "a.png").write_bytes(content)
  said, picture, table, file = seen(looker, image, words, tmp_path)
  assert 'role="alert"' in said and expected in said
  assert (picture, table, file.interactive) == (None, "", False)
  assert [path.name for path in tmp_path.iterdir()] == ["a.png"]  # nothing half written


def test_words_are_escaped_in_the_table(image, tmp_path):
  looker = made.looker(made.detector(clip=True))
  said, _, table, _ = seen(looker, image, "<script>", tmp_path)
  assert "<script>" not in said + table and "<td>&lt;script&gt;</td>" in table


def test_an_image_that_is_not_there_is_a_sentence(looker, tmp_path):
  assert "There is no image yet" in seen(looker, None, "cat", tmp_path)[0]
  assert "b.png is not kept any more: choose it" in seen(looker, "b.png", "cat", tmp_path)[0]


def test_a_file_of_too_many_bytes_is_a_sentence(image, tmp_path):
  looker = made.looker(max_megabytes=1e-5)
  assert "a.png is larger than 1e-05 MB" in seen(looker, image, "cat", tmp_path)[0]


def parts(blocks):
  return {part.elem_id: part for part in blocks.blocks.values() if part.elem_id}


def test_words_are_chosen_without_a_clip_and_typed_with_one(tmp_path):
  closed = parts(page.build(made.looker(), tmp_path))["words"]
  assert isinstance(closed, gr.Dropdown) and [name for name, _ in closed.choices] == [*made.NAMES]
  opened = page.build(made.looker(made.detector(clip=True), made.detector(clip=True)), tmp_path)
  assert isinstance(parts(opened)["words"], gr.Textbox)
  assert {"picture0", "picture1", "file1"} <= set(parts(opened))


def test_addresses_are_not_fetched_for_the_page(tmp_path):
  image = parts(page.build(made.looker(), tmp_path))["image"]
  with pytest.raises(gr.Error, match="Addresses are not fetched"):
    asyncio.run(image.async_move_resource_to_block_cache("http://127.0.0.1/a.png"))


REQUEST = "Network.requestWillBeSent"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None)
DRIVER = shutil.which("chromedriver")


@pytest.fixture(scope="module")
def browser():
  webdriver = pytest.importorskip("selenium.webdriver", reason="pip install selenium")
  if CHROMIUM is None or DRIVER is None:
    pytest.skip("there is no chromium with chromedriver (Debian: chromium, chromium-driver)")
  options = webdriver.ChromeOptions()
  options.binary_location = CHROMIUM
  for flag in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
    options.add_argument(f"--{flag}")
  options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
  browser = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
  browser.set_page_load_timeout(120)
  yield browser
  browser.quit()


def until(browser, found, seconds=120):
  """What `found` gives of the browser, as soon as it is true."""
  from selenium.common.exceptions import StaleElementReferenceException
  from selenium.webdriver.support.ui import WebDriverWait

  ignored = (StaleElementReferenceException,)
  return WebDriverWait(browser, seconds, ignored_exceptions=ignored).until(found)


def one(browser, selector):
  return next(iter(browser.find_elements("css selector", selector)), None)


def text(browser, selector):
  part = one(browser, selector)
  return part.text if part else ""


def pixels(browser):
  """Digest of the picture of the first run, as the page shows it; None without one."""
  source = one(browser, "#picture0 img")
  if source is None:
    return None
  script = """
    const done = arguments[1];
    fetch(arguments[0]).then(r => r.arrayBuffer()).then(b => done([...new Uint8Array(b)]));
  """
  content = browser.execute_async_script(script, source.get_attribute("src"))
  return hashlib.sha256(bytes(content)).hexdigest()


@pytest.mark.door
def test_the_page_in_a_browser(browser, tmp_path):
  for name, content in {"a.png": made.encoded(size=(160, 120)), "b.jpg": b"no picture"}.items():
    (tmp_path / name).write_bytes(content)
  looker = made.looker(made.detector(clip=True), made.detector(clip=True))
  with running(looker, lambda folder: [tmp_path / "a.png"]) as address:
    browser.get(address)
    upload = until(browser, lambda b: one(b, "#image input[type=file]"))
    words = until(browser, lambda b: one(b, "#words textarea"))
    # An image without words: the run's own.
    upload.send_keys(str(tmp_path / "a.png"))
    until(browser, lambda b: "1 cat, 1 red car" in text(b, "#said0"))
    before = until(browser, pixels)
    # A word changes the picture.
    words.send_keys("bird\n")
    until(browser, lambda b: "2 bird" in text(b, "#said0") and "2 bird" in text(b, "#said1"))
    until(browser, lambda b: pixels(b) not in (None, before))
    computed = looker.computed
    # The threshold computes nothing.
    number = one(browser, "#score input[type=number]")
    number.clear()
    number.send_keys("0.8\n")
    one(browser, "#look").click()
    until(browser, lambda b: "1 bird" in text(b, "#said0"))
    assert looker.computed == computed
    rows = browser.find_elements("css selector", "#table0 tr")
    assert [row.text.split()[0] for row in rows] == ["word", "bird"]
    # The boxes are downloaded.
    folder = tmp_path / "downloads"
    behavior = {"behavior": "allow", "downloadPath": str(folder)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behavior)
    one(browser, "#file0").click()
    until(browser, lambda b: (folder / "a.json").exists())
    (box,) = json.loads((folder / "a.json").read_text())["annotations"]
    assert (box["category"], box["bbox"]) == ("bird", [0, 0, 80, 60])
    # A word that the CLIP does not know, and a file that is no picture, are sentences.
    words.clear()
    words.send_keys("zebra\n")
    until(browser, lambda b: "'zebra' is not in" in text(b, "#said0 [role=alert]"))
    browser.get(address)
    until(browser, lambda b: one(b, "#image input[type=file]")).send_keys(str(tmp_path / "b.jpg"))
    until(browser, lambda b: "Cannot decode b.jpg" in text(b, "#said0 [role=alert]"))
    # One of the examples.
    until(browser, lambda b: one(b, ".gallery-item")).click()
    until(browser, lambda b: "1 cat" in text(b, "#said1"))
  messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
  sent = [own["params"]["request"]["url"] for own in messages if own["method"] == REQUEST]
  parsed = map(urllib.parse.urlsplit, sent)
  others = {url.netloc for url in parsed if url.scheme.startswith(("http", "ws"))}
  assert others == {address.removeprefix("http://")}


@pytest.mark.door
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_is_as_wide_as_the_window(browser, tmp_path, width):
  (tmp_path / "a.png").write_bytes(made.encoded(size=(1600, 400)))
  metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
  browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
  with running(made.looker(made.detector(("a long word " * 8, "dog")))) as address:
    browser.get(address)
    until(browser, lambda b: one(b, "#image input[type=file]")).send_keys(str(tmp_path / "a.png"))
    until(browser, lambda b: one(b, "#table0 td"))
    assert browser.execute_script("return document.documentElement.scrollWidth") == width
