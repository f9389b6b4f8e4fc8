"""A visit to the page in a real browser, and everything that it did which it should not."""

import os
import re
import time
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run"
).split()
SIZES = {"desk": (1400, 1024), "telephone": (390, 844)}
PATIENCE_MS = 60_000
expect.set_options(timeout=PATIENCE_MS)


LOOKS = [("desk", "light"), ("telephone", "dark")]
OTHER_LOOKS = [("desk", "dark"), ("telephone", "light")]

# What Gradio itself says in the console: with every file that is uploaded, with every chart.
_GRADIOS_OWN = re.compile(
    "Method not implemented.|WARN The input spec uses Vega-Lite v5.*, but the current version .*"
)

# And what its client says of a message that it still waited for when the page was left.
_LEFT_WAITING = re.compile(r"AbortError: signal is aborted|.*Connection errored out\.", re.DOTALL)

# Drops a file of this name with these bytes on the middle of the page.
_DROP = """([name, bytes]) => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([new Uint8Array(bytes)], name));
    for (const kind of ["dragover", "drop"]) {
        const options = { dataTransfer, bubbles: true, cancelable: true };
        document.querySelector(".gallery").dispatchEvent(new DragEvent(kind, options));
    }
}"""

# Tells when Stop was enabled and no longer is: a small run is over before one could look twice.
WATCH_STOP = """(stop) => {
    window.ran = false;
    let enabled = false;
    new MutationObserver(() => {
        window.ran ||= enabled && stop.disabled;
        enabled = !stop.disabled;
    }).observe(stop, { attributes: true });
}"""

# Notes whatever is said aloud.
LISTEN = """() => {
    window.heard = [];
    const aloud = document.querySelector(".aloud");
    new MutationObserver(() => aloud.textContent && heard.push(aloud.textContent))
        .observe(aloud, { childList: true });
}"""


class Visit:
    """One page, and everything it did that it should not."""

    finished = "evaluations"  # what the readout says of a request that is done

    def __init__(self, browser, address, size, colours="light"):
        self.complaints = []
        viewport = {"width": size[0], "height": size[1]}
        self.page = browser.new_page(viewport=viewport, color_scheme=colours)
        self.page.set_default_timeout(PATIENCE_MS)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.on("response", self._response)
        self.page.goto(address)
        self.generate = self.page.get_by_role("button", name="Generate")
        self.stop = self.page.get_by_role("button", name="Stop")
        self.restore = self.page.locator("input[type=file]:has(+ .restore)")
        self.readout = self.page.locator(".card")
        self.pictures = self.page.locator(".gallery img")
        self.seed = self.page.get_by_label("Seed", exact=True)
        self.live = self.page.get_by_label("Live")
        expect(self.generate).to_be_enabled()
        self.live.uncheck()

    def _console(self, message):
        gradios_own = _GRADIOS_OWN.fullmatch(message.text)
        if message.type in ("error", "warning") and not gradios_own:
            self.complaints.append(message.text)

    def _request(self, request):
        address = urlsplit(request.url)
        if address.scheme not in ("data", "blob") and address.hostname != "127.0.0.1":
            self.complaints.append(f"a request left for {request.url}")

    def _response(self, response):
        if response.status >= 400:
            self.complaints.append(f"{response.status} {response.url} {response.request.post_data}")

    def leave_for(self, address):
        """Open another address in the same page, whatever it still waits for."""
        self.page.goto(address)
        self.complaints = [its for its in self.complaints if not _LEFT_WAITING.match(its)]

    def open_tab(self, name):
        """Press a tab."""
        self.page.get_by_role("tab", name=name).click()

    def drop(self, file):
        """Drop a file on the page."""
        self.page.evaluate(_DROP, [file.name, list(file.read_bytes())])

    def slow_down(self, latency_ms):
        """Make every answer of the server take that much longer."""
        line = {"offline": False, "downloadThroughput": -1, "uploadThroughput": -1}
        session = self.page.context.new_cdp_session(self.page)
        session.send("Network.emulateNetworkConditions", line | {"latency": latency_ms})

    def slide(self, **values):
        for name, value in values.items():
            number = self.page.locator(f".{name} input[type=number]")
            number.fill(str(value))
            number.press("Tab")

    def drag(self, name, value):
        highest = int(self.page.locator(f".{name} input[type=range]").get_attribute("max"))
        return self.drag_share(name, value / highest)

    def drag_share(self, name, share):
        """Drag a slider to that share of its track; return the number that it then says."""
        track = self.page.locator(f".{name} input[type=range]")
        # To the middle: at the lower edge, Generate would lie over it.
        track.evaluate("(e) => e.scrollIntoView({ block: 'center', behavior: 'instant' })")
        box = track.bounding_box()
        place = [box["x"] + box["width"] * share for share in (0.5, share)]
        height = box["y"] + box["height"] / 2
        self.page.mouse.move(place[0], height)
        self.page.mouse.down()
        self.page.mouse.move(place[1], height, steps=3)
        self.page.mouse.up()
        return int(self.page.locator(f".{name} input[type=number]").input_value())

    def expect_toast(self, text):
        toast = self.page.get_by_test_id("toast-body")
        expect(toast).to_contain_text(text)

    def slides_at(self, **values):
        for name, value in values.items():
            number = self.page.locator(f".{name} input[type=number]")
            expect(number).to_have_value(str(value))

    def choose_classes(self, *names):
        self.page.get_by_role("button", name="None", exact=True).click()
        for name in names:
            self.tile(name).click()
        self.chosen(*names)

    def tile(self, name):
        return self.page.get_by_role("button", name=name, exact=True)

    def choose_preset(self, plan):
        self.page.locator(".preset").get_by_text(plan, exact=True).click()

    def chosen(self, *names):
        """Expect these classes, in any order, to be marked as chosen."""
        marked = self.page.locator(".tile[aria-pressed=true]")
        expect(marked).to_have_count(len(names))
        assert sorted(marked.all_inner_texts()) == sorted(names)

    def expect_cost(self, text):
        expect(self.page.locator(".cost")).to_contain_text(text)

    def expect_readout(self, pattern, patience_ms=PATIENCE_MS):
        """Wait for it, looking more often than `expect`: a tiny model has done in a second."""
        until = time.monotonic() + patience_ms / 1000
        while not re.search(pattern, found := " ".join(self.readout.text_content().split())):
            assert time.monotonic() < until, f"no {pattern!r} in: {found}"
            self.page.wait_for_timeout(20)

    def run(self):
        self.stop.evaluate(WATCH_STOP)
        self.generate.click()
        self.page.wait_for_function("window.ran")
        self.expect_readout(self.finished)
        expect(self.generate).to_be_enabled()

    def photograph(self, name, folder):
        """Save the whole page, as one sees it once its pictures are there."""
        for picture in self.page.locator("img").locator("visible=true").all():
            picture.evaluate("(image) => image.decode()")
        self.page.mouse.move(0, 0)
        # On a page of its full height, what sticks to the window's edge would lie in the middle.
        stuck = (".run", ".workbench .gallery")
        style = "".join(f"{its} {{ position: relative !important; inset: 0 }}" for its in stuck)
        self.page.add_style_tag(content=style)
        folder = Path(os.environ.get("FLOWTURBO_SCREENSHOTS", folder))
        folder.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=folder / f"{name}.png", full_page=True)

    def sideways_scroll(self):
        return self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )


@contextmanager
def visiting(visit):
    """Lend a visit to a test, and expect at its end that the page did nothing it should not."""
    yield visit
    assert visit.complaints == [], visit.complaints
    assert visit.sideways_scroll() == 0
    visit.page.close()


def seldom(*values):
    """Return parameters that `make test-all` alone tests: what differs is not what is tested."""
    several = (value if isinstance(value, tuple) else (value,) for value in values)
    return [pytest.param(*value, marks=pytest.mark.slow) for value in several]


def serious_violations(page):
    """Return what axe-core calls serious or critical, with the elements concerned."""
    page.wait_for_timeout(500)  # colours on their way to others have any contrast
    violations = Axe().run(page).response["violations"]
    return [
        (v["id"], [node["target"] for node in v["nodes"]])
        for v in violations
        if v["impact"] in ("serious", "critical")
    ]
