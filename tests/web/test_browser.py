"""Uses the page in headless Chromium, in one session, with one server that fills with white."""

import shutil
import threading

import httpx
import numpy as np
import PIL.Image
import pytest
import skimage.data
from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.actions.wheel_input import ScrollOrigin
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.helpers.completers import Whitener
from tests.helpers.programs import wait_for
from tests.helpers.sources import encode

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs chromium and chromedriver (Debian: apt install chromium chromium-driver)",
)
WIDTH, HEIGHT = 480, 320
IMAGE = np.ascontiguousarray(skimage.data.coffee()[:HEIGHT, :WIDTH])
PIXEL = """
const [selector, x, y] = arguments, context = new OffscreenCanvas(1, 1).getContext("2d");
context.drawImage(document.querySelector(selector), -x, -y);
return [...context.getImageData(0, 0, 1, 1).data];
"""
GIVE = """
const [type, name, content, clientX] = arguments, data = new DataTransfer();
data.items.add(new File([new Uint8Array(content)], name, { type: "image/png" }));
const event = type === "paste"
  ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
  : new DragEvent(type, { dataTransfer: data, clientX, bubbles: true, cancelable: true });
document.getElementById("stage").dispatchEvent(event);
"""


class Page:
    """The page, as a person sees it. Places on the photograph are its pixels."""

    def __init__(self, driver, address, folder):
        self.driver, self.address, self.folder = driver, address, folder
        self.run = driver.execute_script

    def load(self, width=1280, height=800, phone=False):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        self.pointer = "touch" if phone else "mouse"
        self.driver.get(self.address)
        wait_for(lambda: self.run("return 'ready' in document.documentElement.dataset"))

    def find(self, name):
        return self.driver.find_element(By.ID, name)

    def text(self, name):
        return self.find(name).text

    def error(self):
        return self.driver.find_element(By.CSS_SELECTOR, "#error p").text

    def click(self, name):
        wait_for(self.find(name).is_enabled)
        self.find(name).click()

    def settle(self):
        wait_for(lambda: self.run("return document.getElementById('cancel').hidden"))

    def open(self, path, place="photo-file"):
        self.find(place).send_keys(str(path))
        self.settle()

    def complete(self):
        self.click("complete")
        self.settle()
        assert self.error() == ""

    def is_white(self, x, y):
        return min(self.run(PIXEL, "#pictures img", x, y)) > 240

    def is_masked(self, x, y):
        return self.run(PIXEL, "#mask", x, y)[3] > 127

    def place(self, x, y):
        """Where a pixel of the photograph is in the window."""
        box = self.run("return document.getElementById('sheet').getBoundingClientRect().toJSON()")
        scale = box["width"] / WIDTH
        return round(box["x"] + x * scale), round(box["y"] + y * scale)

    def drag(self, *places):
        pointer = PointerInput(self.pointer, self.pointer)
        actions = ActionBuilder(self.driver, mouse=pointer, duration=10)
        actions.pointer_action.move_to_location(*self.place(*places[0])).pointer_down()
        for place in places[1:]:
            actions.pointer_action.move_to_location(*self.place(*place))
        actions.pointer_action.pointer_up()
        actions.perform()

    def press(self, *keys):
        """Presses keys such as Keys.CONTROL + "z" on the photograph."""
        for key in keys:
            self.find("stage").send_keys(key)
        self.settle()

    def act(self):
        return webdriver.ActionChains(self.driver, duration=10)

    def download(self, button, name):
        path = self.folder / name
        self.click(button)
        wait_for(lambda: path.exists() and path.stat().st_size)
        with PIL.Image.open(path) as image:
            found = np.array(image)
        path.unlink()
        return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("downloads")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    options.add_argument("--headless")
    options.add_argument("--no-sandbox")  # unavailable to root, as in containers
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with webdriver.Chrome(options, webdriver.ChromeService(DRIVER)) as driver:
        yield driver, folder


@pytest.fixture
def page(server, driver):
    """The page without a photograph. At the end, it must have logged no error."""
    page = Page(driver[0], server, driver[1])
    page.load()
    yield page
    severe = [line["message"] for line in driver[0].get_log("browser") if line["level"] == "SEVERE"]
    assert [message for message in severe if "status of 400" not in message] == []


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "cup.png"
    path.write_bytes(encode(IMAGE))
    return path


def test_paint_erase_complete_go_on_undo_redo_start_over(page, photo):
    page.open(photo)
    assert page.text("name") == "cup.png · 480 x 320"
    page.drag((100, 100), (380, 100))
    page.click("eraser")
    page.drag((240, 60), (240, 140))
    page.complete()
    assert page.text("status").startswith("1 of 7. white: 3.94 % filled in")
    first = page.download("download", "cup-completed.png")
    changed = (first != IMAGE).any(-1)
    assert changed[100, [100, 200, 280, 380]].all() and not changed[100, 240]
    assert (first[changed] == 255).all() and not changed[140:].any()
    assert not page.is_masked(100, 100)  # the next hole starts empty

    page.click("brush")
    page.drag((100, 200), (200, 200))
    page.complete()
    assert page.is_white(150, 200) and page.is_white(110, 100)

    page.click("undo")  # the completion
    assert page.is_masked(150, 200) and not page.is_white(150, 200) and page.is_white(110, 100)
    page.click("undo")  # its stroke
    assert not page.is_masked(150, 200)
    page.press(Keys.CONTROL + "z")  # the first completion
    assert not page.is_white(110, 100) and page.is_masked(110, 100) and not page.is_masked(240, 100)
    page.click("undo")  # the eraser's stroke
    assert page.is_masked(240, 100)
    page.press(Keys.CONTROL + Keys.SHIFT + "z", *[Keys.CONTROL + "y"] * 3)
    assert page.is_white(110, 100) and page.is_white(150, 200)
    assert not page.find("redo").is_enabled()

    page.click("restart")
    assert not page.is_white(110, 100) and not page.find("download").is_enabled()
    page.click("undo")
    assert page.is_white(110, 100)


def test_a_method_is_chosen_and_a_completion_cancelled(page, photo, monkeypatch):
    page.open(photo)
    page.drag((100, 100), (200, 100))
    go = threading.Event()
    monkeypatch.setattr(Whitener, "fill", lambda _, image, hole: go.wait(60) and image)
    page.click("complete")
    wait_for(lambda: page.text("status") == "Filling with white …")
    page.click("cancel")
    page.settle()
    go.set()
    assert page.error() == "" and page.is_masked(150, 100)
    page.find("method").send_keys("Telea")
    page.complete()
    assert page.text("status").startswith("1 of 7. Telea: ")


def test_before_and_after(page, photo):
    page.open(photo)
    page.drag((100, 100), (380, 100))
    page.complete()
    (before,) = page.driver.find_elements(By.CSS_SELECTOR, "#pictures img + img")
    assert not before.is_displayed()
    page.act().click_and_hold(page.find("compare")).perform()
    assert before.is_displayed() and page.text("badge") == "Before"
    page.act().release().perform()
    assert not before.is_displayed()
    page.act().key_down("c").perform()
    assert before.is_displayed() and not page.find("mask").is_displayed()
    page.act().key_up("c").perform()
    assert not before.is_displayed() and page.find("mask").is_displayed()
    page.find("split").send_keys(Keys.END)
    assert before.is_displayed() and "inset(0px 0%" in before.value_of_css_property("clip-path")


WINDOWS = {"desk": (1280, 800), "phone": (390, 844), "aside": (844, 390), "old": (320, 568)}


@pytest.mark.parametrize("window", WINDOWS)
def test_everything_is_in_sight_and_has_a_name(page, photo, window):
    width, height = WINDOWS[window]
    phone = window != "desk"
    page.load(width, height, phone=phone)
    page.open(photo)
    page.drag((100, 100), (200, 100))
    page.complete()
    seen = ["open", "copy", "download", "help", "another", "compare", "split", "complete"]
    if window != "aside":  # there, the tools scroll
        seen += ["undo", "clear", "size", "fit", "method", "more"]
    for name in seen:
        box = page.find(name).rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, name
        assert box["height"] >= (44 if phone else 30), name
    assert page.find("sheet").rect["width"] >= min(240, width / 2)
    page.click("more")
    assert page.run("return document.documentElement.scrollWidth") == width
    for one in page.driver.find_elements(By.CSS_SELECTOR, "button, select, input, [tabindex]"):
        assert one.accessible_name or not one.is_displayed(), one.get_attribute("outerHTML")
        if phone and one.is_displayed() and one.get_attribute("type") != "checkbox":
            assert one.rect["height"] >= 44, one.get_attribute("outerHTML")
    assert 0.3 < float(page.find("mask").value_of_css_property("opacity")) < 0.7


def test_another_result_for_the_same_hole(page, tmp_path):
    """Results that equal an earlier one are left out: here, all but white and navy."""
    PIL.Image.new("RGB", (WIDTH, HEIGHT), "navy").save(tmp_path / "flat.png")
    page.open(tmp_path / "flat.png")
    page.drag((100, 100), (380, 100))
    page.complete()
    page.press("n")
    assert page.text("status").startswith("2 of 7. Automatic: ") and not page.is_white(200, 100)
    page.click("previous")
    assert page.text("status").startswith("1 of 7. white: ") and page.is_white(200, 100)
    page.press("n", "n")
    wait_for(lambda: page.text("status").startswith("1 of 2. white: "))
    page.click("undo")  # all results are one step
    assert page.is_masked(200, 100)


def test_waiting_is_told_and_strokes_are_filled_at_once(page, photo, monkeypatch):
    page.open(photo)
    page.click("more")
    page.click("at-once")
    go = threading.Event()
    monkeypatch.setattr(Whitener, "fill", lambda _, image, hole: go.wait(60) and image)
    files = {"photo": encode(IMAGE), "mask": encode(np.eye(HEIGHT, WIDTH, dtype=bool))}
    url = f"{page.address}/complete?job=other"
    other = threading.Thread(target=lambda: httpx.post(url, files=files, timeout=60))
    other.start()
    wait_for(lambda: httpx.get(f"{page.address}/queue?job=other").json()["before"] == 0)
    page.drag((100, 100), (200, 100))
    wait_for(lambda: page.text("status") == "Waiting: 1 before you …")
    go.set()
    page.settle()
    other.join()
    assert page.text("status").startswith("1 of 7. white") and not page.is_masked(150, 100)


def test_a_server_without_an_answer_is_asked_again(page, photo):
    block = "Network.setBlockedURLs"
    page.driver.execute_cdp_cmd("Network.enable", {})
    page.driver.execute_cdp_cmd(block, {"urls": ["*/methods"]})
    page.driver.get(page.address)
    wait_for(lambda: page.error().startswith("The server does not answer"))
    page.open(photo)
    page.drag((100, 100), (200, 100))
    page.click("complete")
    wait_for(lambda: page.text("remedy") == "Try again")
    assert not page.find("cancel").is_displayed()
    page.driver.execute_cdp_cmd(block, {"urls": []})
    page.click("remedy")
    page.settle()
    assert page.error() == "" and page.text("method").startswith("white")
    page.driver.get_log("browser")  # the blocked requests


def test_leaving_warns_if_something_is_lost(page, photo):
    def warns():
        leave = "return window.dispatchEvent(new Event('beforeunload', { cancelable: true }))"
        return not page.run(leave)

    page.open(photo)
    page.drag((100, 100), (200, 100))
    assert warns()
    page.press(Keys.DELETE)
    assert not warns() and not page.is_masked(150, 100)
    page.click("undo")
    page.complete()
    page.click("restart")  # the completion before it was not downloaded
    assert warns()
    page.click("undo")
    page.download("download", "cup-completed.png")
    assert not warns()


def test_a_mask_file_is_drawn_corrected_and_saved(page, photo, tmp_path):
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[100:200, 200:280] = True
    (tmp_path / "hole.png").write_bytes(encode(hole))
    page.open(photo)
    page.click("more")
    page.open(photo, "mask-file")
    assert page.error().startswith("cup.png is the photograph itself, not a mask")
    (tmp_path / "small.png").write_bytes(encode(hole[::2, ::2]))
    page.open(tmp_path / "small.png", "mask-file")
    assert page.error() == "cup.png is 480x320, small.png 240x160."
    page.click("remedy")
    page.settle()
    assert page.error() == "" and page.is_masked(240, 150) and not page.is_masked(190, 150)
    page.click("undo")
    page.open(tmp_path / "hole.png", "mask-file")
    assert page.error() == "" and page.is_masked(240, 150) and not page.is_masked(190, 150)
    np.testing.assert_array_equal(page.download("save-mask", "cup-mask.png")[..., 0] > 127, hole)
    for masked in (False, True):
        page.click("invert")
        page.settle()
        assert page.is_masked(240, 150) == masked != page.is_masked(190, 150)
    page.press("e")
    page.drag((240, 90), (240, 210))
    assert not page.is_masked(240, 150) and page.is_masked(205, 150)
    page.complete()
    changed = (page.download("download", "cup-completed.png") != IMAGE).any(-1)
    assert changed[150, 205] and not changed[150, 240] and not changed[~hole].any()


@pytest.mark.parametrize(("suffix", "served"), [("tif", True), ("webp", True), ("jpg", False)])
def test_photographs_are_shown_as_they_are_completed(page, tmp_path, suffix, served):
    """The server shows what browsers do not, or turn otherwise than their EXIF data says."""
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 6
    sideways = PIL.Image.new("RGB", (HEIGHT, WIDTH), "navy")
    sideways.paste("white", (0, 0, HEIGHT, 100))  # the right side, once it is turned
    sideways.save(tmp_path / f"a.{suffix}", exif=exif)
    page.open(tmp_path / f"a.{suffix}")
    assert page.error() == "" and page.text("name") == f"a.{suffix} · 480 x 320"
    requests = "return performance.getEntriesByName(location.origin + '/preview').length"
    assert page.run(requests) == served
    assert page.is_white(470, 10) and not page.is_white(10, 10)
    page.drag((100, 100), (200, 100))
    page.complete()
    assert page.is_white(150, 100) and not page.is_white(150, 200)


def test_errors_say_what_to_do(page, photo, tmp_path):
    (tmp_path / "text.jpg").write_text("no image")
    page.open(tmp_path / "text.jpg")
    assert page.error().startswith("text.jpg is not an image") and "save it as PNG" in page.error()
    (tmp_path / "large.png").write_bytes(bytes(1_100_000))
    PIL.Image.new("L", (1200, 1000)).save(tmp_path / "wide.png")
    for name, found in (("large", "has 1.1 MB"), ("wide", "has 1.2 megapixels")):
        page.open(tmp_path / f"{name}.png")
        assert page.error() == f"{name}.png {found}, at most 1 are allowed; make it smaller."
    page.open(photo)
    assert page.error() == ""
    page.click("complete")
    assert page.error().startswith("There is no hole yet; paint over what should go")
    page.press(Keys.ESCAPE)
    assert page.error() == ""


def test_keyboard(page, photo):
    page.open(photo)
    page.press("?")
    assert "Navier-Stokes" in page.text("sheet-of-help")
    page.find("close-help").send_keys(Keys.ESCAPE)
    size = int(page.text("size-shown"))
    page.press("]", "]")
    assert int(page.text("size-shown")) > size
    page.press("[", "[", "[")
    assert int(page.text("size-shown")) < size
    page.press(Keys.ENTER)  # a dot in the middle
    assert page.is_masked(240, 160) and not page.is_masked(270, 160)
    page.press(*[Keys.SHIFT + Keys.ARROW_RIGHT] * 4)
    assert page.is_masked(260, 160)
    page.press("e")
    assert page.find("eraser").get_attribute("aria-pressed") == "true"
    assert page.is_masked(270, 160)  # the cursor is near
    page.press(Keys.ENTER)
    assert not page.is_masked(270, 160) and page.is_masked(240, 160)
    page.press("b")
    page.find("complete").send_keys(Keys.ENTER)
    page.settle()
    assert page.is_white(240, 160)
    assert page.driver.switch_to.active_element.get_attribute("id") == "complete"


def test_zoom_and_pan(page, photo):
    page.open(photo)
    left, top = page.place(0, 0)
    page.click("zoom-in")
    x, y = page.place(0, 0)
    assert x < left and y < top
    page.act().scroll_from_origin(ScrollOrigin.from_element(page.find("stage")), 0, 100).perform()
    assert page.place(0, 0)[0] > x
    page.act().key_down(Keys.SPACE).perform()
    x, y = page.place(0, 0)
    page.drag((240, 160), (250, 160), (260, 160))
    page.act().key_up(Keys.SPACE).perform()
    assert page.place(0, 0)[0] > x and not page.is_masked(240, 160)
    page.press("0")
    assert page.place(0, 0) == (left, top)
    page.drag((100, 100))  # a click paints a dot
    assert page.is_masked(100, 100) and page.is_masked(105, 100) and not page.is_masked(140, 100)


def test_paste_and_drop(page):
    content = list(encode(IMAGE[:32, :48]))
    for kind, name in (("paste", "image.png"), ("drop", "other.png")):
        page.run(GIVE, kind, name, content, 0)
        page.settle()
        assert page.text("name") == f"{name} · 48 x 32"
    page.click("undo")  # back to the pasted one
    assert page.text("name") == "image.png · 48 x 32"
    hole = np.arange(32)[:, None] + np.zeros(48) < 16
    page.run(GIVE, "drop", "mask.png", list(encode(hole)), 1000)  # on the right half
    page.settle()
    assert page.text("name") == "image.png · 48 x 32" and page.is_masked(20, 8)


def test_fingers_paint_and_zoom(page, photo):
    page.load(390, 844, phone=True)
    page.open(photo)
    page.drag((100, 100), (200, 100), (300, 100))
    assert page.is_masked(200, 100)
    page.click("undo")
    page.drag((100, 250))  # a tap
    assert page.is_masked(100, 250)
    page.click("undo")
    # Two fingers zoom, and paint nothing.
    before = page.place(WIDTH, 0)[0] - page.place(0, 0)[0]
    touches = [[page.place(x, 200), page.place(480 - x, 200)] for x in (200, 150, 100)]
    for kind, places in zip(("Start", "Move", "Move", "End"), [*touches, []], strict=True):
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
        event = {"type": f"touch{kind}", "touchPoints": points}
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)
    assert page.place(WIDTH, 0)[0] - page.place(0, 0)[0] > 2 * before
    assert not page.is_masked(200, 200) and not page.find("save-mask").is_enabled()
