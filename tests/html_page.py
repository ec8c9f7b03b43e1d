"""An HTML page as tests look at it: its tags, text, pictures and what is bold."""

import re
from html.parser import HTMLParser

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
  """Complains about unbalanced tags, and about anything that a browser would fetch."""

  def __init__(self, text):
    super().__init__()
    self.open, self.tags, self.sources, self.strong, self.text = [], [], [], [], ""
    self.feed(text)
    assert not self.open
    assert not re.search(r"https?://|//\w+\.|@import|url\(", text)
    assert not {"link", "iframe", "object", "form", "base"} & set(self.tags)
    assert all(source.startswith("data:image/") for source in self.sources)

  def handle_starttag(self, tag, attrs):
    self.tags.append(tag)
    own = dict(attrs)
    if "src" in own:
      self.sources.append(own["src"])
    assert not {name for name in own if name.startswith("on") or name in ("href", "xlink:href")}
    if tag not in VOID:
      self.open.append(tag)

  def handle_startendtag(self, tag, attrs):
    self.tags.append(tag)

  def handle_endtag(self, tag):
    assert self.open.pop() == tag

  def handle_data(self, data):
    if "strong" in self.open:
      self.strong.append(data)
    if not {"style", "script"} & set(self.open):
      self.text += data
