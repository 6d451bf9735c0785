"""What the tests of pages in a real Chromium share."""

import json

from docs.browser.chromium import Chromium

# Each text of a page, and in a report each curve and bar ("3: …", times 1.5), with its contrast to what is behind it.
CONTRAST = """(() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (e) => { for (; e; e = e.parentElement) {
    const colour = parse(getComputedStyle(e).backgroundColor); if (colour.length < 4 || colour[3]) return colour; } };
  const contrast = (e, ink) => {
    const [a, b] = [light(parse(ink)), light(ground(e))]; return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05); };
  const found = {};
  for (const e of document.querySelectorAll('body *')) {
    if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || e.tagName.endsWith('SCRIPT')) continue;
    const style = getComputedStyle(e), name = `${e.tagName}#${e.id}.${e.getAttribute('class')} ${e.textContent}`;
    found[name.slice(0, 60)] = contrast(e, e.closest('svg') ? style.fill : style.color);
  }
  for (const e of document.querySelectorAll('.line, .dot, .bar:not(.ground), .target')) {
    const style = getComputedStyle(e);
    found['3: ' + e.getAttribute('class')] = 1.5 * contrast(e, e.matches('.line, .target') ? style.stroke : style.fill);
  }
  return found; })()"""


def assert_quiet(browser: Chromium, home: str = "file:") -> None:
    """The page has complained of nothing, and asked for nothing but what begins with `home`."""
    asked = [event["request"]["url"] for event in browser.events_of("Network.requestWillBeSent")]
    assert all(url.startswith((home, "data:", "blob:")) for url in asked), asked
    for kind in ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"):
        assert browser.events_of(kind) == []


def text(browser: Chromium, name: str) -> str:
    """What the element of that id shows."""
    return str(browser.run(f"document.getElementById({json.dumps(name)}).innerText")).replace("\u00a0", " ")
