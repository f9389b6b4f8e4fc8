"""The tabs that work on a picture, in a real browser: uploaded, painted on, changed."""

import re

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from flowturbo_core.metadata import read_png
from tests.demo.visits import SIZES, Visit, seldom, visiting


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    """Return the file of a picture that is larger than the models'."""
    file = tmp_path_factory.mktemp("pictures") / "picture.png"
    rows, columns = np.mgrid[:150, :200]
    pixels = np.stack([columns, rows, 255 - columns], axis=-1).astype(np.uint8)
    Image.fromarray(pixels).save(file)
    return file


@pytest.fixture(scope="module")
def address(serve, service):
    return serve(service)


class PictureVisit(Visit):
    """A visit to a tab that works on a picture."""

    def __init__(self, browser, address, size, tab, button):
        super().__init__(browser, address, size)
        self.open_tab(tab)
        self.panel = self.page.get_by_role("tabpanel").filter(has=self.page.locator(".pair"))
        self.panel = self.panel.locator("visible=true").first
        self.generate = self.shown(self.panel.get_by_role("button", name=button, exact=True)).last
        self.stop = self.shown(self.panel.get_by_role("button", name="Stop"))
        self.readout = self.shown(self.panel.locator(".card"))
        self.pictures = self.shown(self.panel.locator(".gallery img"))
        self.shown(self.panel.get_by_label("Live")).uncheck()
        self.slide(heun=1, pseudo=1, refiner=0, images=1)

    def _console(self, message):
        if message.type == "error":  # the canvas warns of graphics that a headless browser lacks
            super()._console(message)

    @staticmethod
    def shown(locator):
        return locator.locator("visible=true")

    def slide(self, **values):
        for name, value in values.items():
            number = self.shown(self.panel.locator(f".{name} input[type=number]"))
            number.fill(str(value))
            number.press("Tab")

    def upload(self, kind, file):
        uploads = self.panel.locator(f".{kind} input[type=file]").all()
        (upload,) = [
            its for its in uploads if its.evaluate("e => !!e.closest('.workbench').offsetParent")
        ]
        upload.set_input_files(file)

    def first_picture(self, tmp_path):
        """Return the first picture as it was written."""
        file = tmp_path / "result.png"
        file.write_bytes(httpx.get(self.pictures.first.get_attribute("src")).content)
        return file


@pytest.mark.parametrize("size", ["desk", *seldom("telephone")])
def test_a_picture_is_changed(browser, address, picture, tmp_path, size):
    visit = PictureVisit(browser, address, SIZES[size], "Edit", "Edit")
    with visiting(visit):
        tile = visit.panel.get_by_role("button", name="cat", exact=True)
        expect(visit.shown(tile)).to_be_visible()  # in a tab that was just opened
        search = visit.shown(visit.panel.get_by_label("Search classes"))
        search.fill("tree")
        expect(visit.shown(tile)).to_have_count(0)
        search.fill("")
        visit.shown(tile).click()
        expect(visit.shown(visit.panel.locator(".count"))).to_have_text("5 chosen")
        visit.generate.click()
        visit.expect_toast("There is no picture")
        visit.upload("source", picture)
        expect(visit.shown(visit.panel.locator(".source img"))).to_be_visible()
        visit.generate.click()
        expect(visit.readout).to_contain_text("evaluations")
        written = read_png(visit.first_picture(tmp_path))
        assert written.task.NAME == "edit" and re.fullmatch(
            "[0-9a-f]{64}", written.values["picture"]
        )
        expect(visit.shown(visit.panel.locator(".pair img")).first).to_be_visible()
        visit.page.wait_for_url("**task=edit**")


@pytest.mark.parametrize("size", ["desk", *seldom("telephone")])
def test_what_is_painted_over_is_sampled_and_the_rest_is_kept(
    browser, address, picture, tmp_path, size
):
    visit = PictureVisit(browser, address, SIZES[size], "Inpaint", "Paint")
    with visiting(visit):
        visit.generate.click()
        visit.expect_toast("Upload a picture, and paint over what is to change")
        visit.upload("canvas", picture)
        canvas = visit.shown(visit.panel.locator(".canvas canvas")).first
        expect(
            visit.shown(visit.panel.locator(".canvas").get_by_label("Brush")).first
        ).to_be_visible()
        canvas.scroll_into_view_if_needed()
        box = canvas.bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        mouse = visit.page.mouse
        mouse.move(x - 20, y)
        mouse.down()
        for k in range(8):
            mouse.move(x - 20 + 5 * k, y)
        mouse.up()
        visit.generate.click()
        expect(visit.readout).to_contain_text("evaluations")
        result = visit.first_picture(tmp_path)
        before, after = (np.asarray(Image.open(file)) for file in (picture, result))
        assert before.shape == after.shape
        changed = (before != after).any(axis=-1)
        assert 0 < changed.mean() < 0.5
        assert not changed[:20].any() and not changed[-20:].any()  # far from the stroke
        assert read_png(result).task.NAME == "inpaint"
