"""Uses the page in headless Chromium, in one session, with one server that fills with white."""

import base64
import io
import shutil
import threading

import numpy as np
import PIL.Image
import pytest
import skimage.data
from selenium import webdriver
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.actions.pointer_input import PointerInput
from selenium.webdriver.common.by import By

from glinpaint_jax.errors import UserError
from tests.helpers.programs import wait_for

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs chromium and chromedriver (Debian: apt install chromium chromium-driver)",
)
FLAGS = (
    "--headless",
    "--no-sandbox",  # unavailable to root, as in containers
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
)
WIDTH, HEIGHT = 480, 320
PIXEL = """
const image = document.querySelector("#pictures img"), canvas = document.createElement("canvas");
[canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
canvas.getContext("2d").drawImage(image, 0, 0);
return [...canvas.getContext("2d").getImageData(...arguments, 1, 1).data].slice(0, 3);
"""
MASK = """
const context = document.getElementById("mask").getContext("2d");
return context.getImageData(...arguments, 1, 1).data[3];
"""
GIVE = """
const [type, name, content] = arguments, data = new DataTransfer();
const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
data.items.add(new File([bytes], name, { type: "image/png" }));
const event = type === "paste"
  ? new ClipboardEvent("paste", { clipboardData: data, bubbles: true })
  : new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true });
document.getElementById("stage").dispatchEvent(event);
"""


class Page:
    """The page, as a person sees it. Places on the photograph are its pixels."""

    def __init__(self, driver, address, folder):
        self.driver, self.address, self.folder = driver, address, folder

    def load(self, width=1280, height=800, phone=False):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.driver.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": phone})
        self.pointer = "touch" if phone else "mouse"
        self.driver.get(self.address)
        wait_for(lambda: self.run("return 'ready' in document.documentElement.dataset"))

    def run(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def find(self, name):
        return self.driver.find_element(By.ID, name)

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

    def text(self, name):
        return self.find(name).text

    def error(self):
        return self.run(
            "const error = document.getElementById('error');"
            "return error.hidden ? '' : error.querySelector('p').textContent"
        )

    def pixel(self, x, y):
        return self.run(PIXEL, x, y)

    def is_white(self, x, y):
        return min(self.pixel(x, y)) > 240

    def is_masked(self, x, y):
        return self.run(MASK, x, y) > 127

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
        """Presses keys such as "Control+Shift+z" on the photograph."""
        bits = {"Alt": 1, "Control": 2, "Shift": 8}
        for key in keys:
            *held, name = key.split("+") if len(key) > 1 else [key]
            event = {"key": name, "modifiers": sum(bits[one] for one in held)}
            if len(name) == 1 and not held:
                event["text"] = name
            for kind in ("keyDown", "keyUp"):
                self.key(kind, **event)
        self.settle()

    def key(self, kind, key, **more):
        event = {"type": kind, "key": key, **more}
        self.driver.execute_cdp_cmd("Input.dispatchKeyEvent", event)

    def give(self, kind, name, content):
        self.run(GIVE, kind, name, base64.b64encode(content).decode())
        self.settle()

    def download(self, button, name):
        path = self.folder / name
        self.click(button)
        wait_for(path.exists)
        with PIL.Image.open(path) as image:
            found = np.array(image)
        path.unlink()
        return found


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    yield driver, folder
    driver.quit()


@pytest.fixture
def page(server, driver):
    """The page without a photograph. At the end, it must have logged no error."""
    page = Page(driver[0], server, driver[1])
    page.load()
    yield page
    severe = [line["message"] for line in driver[0].get_log("browser") if line["level"] == "SEVERE"]
    assert [message for message in severe if "status of 400" not in message] == []


IMAGE = np.ascontiguousarray(skimage.data.coffee()[:HEIGHT, :WIDTH])


def as_png(image):
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "cup.png"
    path.write_bytes(as_png(IMAGE))
    return path


def test_paint_erase_complete_go_on_undo_redo_start_over(page, photo):
    page.open(photo)
    assert page.text("name") == "cup.png · 480 x 320"
    page.drag((100, 100), (380, 100))
    page.click("eraser")
    page.drag((240, 60), (240, 140))
    page.complete()
    assert page.text("status").startswith("white: ") and "% filled in" in page.text("status")
    first = page.download("download", "cup-completed.png")
    changed = (first != IMAGE).any(-1)
    assert changed[100, [100, 200, 280, 380]].all() and not changed[100, 240]
    assert (first[changed] == 255).all() and not changed[140:].any()
    assert not page.is_masked(100, 100)  # the next hole starts empty

    page.click("brush")
    page.drag((100, 200), (200, 200))
    assert page.is_masked(150, 200)
    page.complete()
    second = page.download("download", "cup-completed.png")
    assert (second[200, 100:200] == 255).all()
    np.testing.assert_array_equal(second[:140], first[:140])

    page.click("undo")  # the completion
    assert page.is_masked(150, 200) and not page.is_white(150, 200) and page.is_white(110, 100)
    page.click("undo")  # its stroke
    assert not page.is_masked(150, 200)
    page.press("Control+z")  # the first completion
    assert not page.is_white(110, 100) and page.is_masked(110, 100) and not page.is_masked(240, 100)
    page.click("undo")  # the eraser's stroke
    assert page.is_masked(240, 100)
    page.press("Control+Shift+z", "Control+y", "Control+y", "Control+y")
    assert page.is_white(110, 100) and page.is_white(150, 200)
    assert not page.find("redo").is_enabled()

    page.click("restart")
    assert not page.is_white(110, 100) and not page.find("download").is_enabled()
    page.click("undo")
    assert page.is_white(110, 100)


@pytest.mark.parametrize("phone", [False, True], ids=["click", "tap"])
def test_a_click_paints_and_erases_a_dot(page, photo, phone):
    page.load(phone=phone)
    page.open(photo)
    page.drag((100, 100))
    assert page.is_masked(100, 100) and page.is_masked(105, 100) and not page.is_masked(140, 100)
    page.drag((200, 100))
    page.press("e")
    page.drag((100, 100))
    assert not page.is_masked(100, 100) and page.is_masked(200, 100)
    page.complete()
    assert page.is_white(200, 100) and not page.is_white(100, 100)


def test_before_and_after(page, photo):
    page.open(photo)
    page.drag((100, 100), (380, 100))
    page.complete()
    (before,) = page.driver.find_elements(By.CSS_SELECTOR, "#pictures img + img")
    assert not before.is_displayed()
    webdriver.ActionChains(page.driver).click_and_hold(page.find("compare")).perform()
    assert before.is_displayed() and page.text("badge") == "Before"
    webdriver.ActionChains(page.driver).release().perform()
    assert not before.is_displayed()
    page.key("keyDown", "c")
    assert before.is_displayed() and not page.find("mask").is_displayed()
    page.key("keyUp", "c")
    assert not before.is_displayed() and page.find("mask").is_displayed()


@pytest.mark.parametrize(("width", "height"), [(1280, 800), (390, 844)], ids=["desk", "phone"])
def test_everything_is_in_sight_and_has_a_name(page, photo, width, height):
    page.load(width, height, phone=width == 390)
    page.open(photo)
    page.click("more")
    assert page.run("return document.documentElement.scrollWidth") == width
    for name in ("download", "complete", "undo", "redo", "size", "method", "compare", "more"):
        box = page.find(name).rect
        assert box["x"] >= 0 and box["x"] + box["width"] <= width, name
        assert box["y"] >= 0 and box["y"] + box["height"] <= height, name
        assert name == "size" or box["height"] >= (40 if width == 390 else 30), name
    assert 0.3 < float(page.find("mask").value_of_css_property("opacity")) < 0.7
    unnamed = page.run(
        "return [...document.querySelectorAll('button, select, input, [tabindex]')].filter((one) =>"
        " !(one.ariaLabel || one.title || one.innerText || one.labels?.length))"
        ".filter((one) => one.checkVisibility()).map((one) => one.outerHTML)"
    )
    assert unnamed == []


def test_a_mask_file_is_drawn_corrected_and_saved(page, photo, tmp_path):
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[100:200, 200:280] = True
    (tmp_path / "hole.png").write_bytes(as_png(hole))
    page.open(photo)
    page.click("more")
    page.open(photo, "mask-file")
    assert page.error().startswith("cup.png is the photograph itself, not a mask")
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
    requests = "return performance.getEntriesByName(location.origin + '/preview').length"
    page.open(tmp_path / f"a.{suffix}")
    assert page.error() == "" and page.text("name") == f"a.{suffix} · 480 x 320"
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
    page.press("Escape")
    assert page.error() == ""


def test_keyboard(page, photo):
    page.open(photo)
    page.run("document.getElementById('stage').focus()")
    size = int(page.text("size-shown"))
    page.press("]", "]")
    assert int(page.text("size-shown")) > size
    page.press("[", "[", "[")
    assert int(page.text("size-shown")) < size
    page.press("Enter")  # a dot in the middle
    assert page.is_masked(240, 160) and not page.is_masked(270, 160)
    page.press(*["Shift+ArrowRight"] * 4)
    assert page.is_masked(260, 160)
    page.press("e")
    assert page.find("eraser").get_attribute("aria-pressed") == "true"
    assert page.is_masked(270, 160)  # the cursor is near
    page.press("Enter")
    assert not page.is_masked(270, 160) and page.is_masked(240, 160)
    page.press("b", "Control+Enter")
    assert page.is_white(240, 160)
    page.press("Control+z")
    assert not page.is_white(240, 160)


def test_zoom_and_pan(page, photo):
    page.open(photo)
    left, top = page.place(0, 0)
    page.click("zoom-in")
    x, y = page.place(0, 0)
    assert x < left and y < top
    page.run(
        "document.getElementById('stage').dispatchEvent(new WheelEvent('wheel',"
        "{deltaY: 1e5, clientX: arguments[0], clientY: arguments[1], cancelable: true}))",
        *page.place(240, 160),
    )
    assert page.place(0, 0)[0] > x
    page.key("keyDown", " ")
    x, y = page.place(0, 0)
    page.drag((240, 160), (250, 160), (260, 160))
    page.key("keyUp", " ")
    assert page.place(0, 0)[0] > x and not page.is_masked(240, 160)
    page.press("0")
    assert page.place(0, 0) == (left, top)
    page.drag((100, 100), (120, 100))
    assert page.is_masked(110, 100)


def test_paste_and_drop(page):
    page.give("paste", "image.png", as_png(IMAGE))
    assert page.text("name") == "image.png · 480 x 320"
    page.give("drop", "other.png", as_png(IMAGE[:, ::-1].copy()))
    assert page.text("name") == "other.png · 480 x 320"
    page.click("undo")  # back to the pasted one
    assert page.text("name") == "image.png · 480 x 320"


def test_fingers_paint_and_zoom(page, photo):
    page.load(390, 844, phone=True)
    page.open(photo)
    page.drag((100, 100), (200, 100), (300, 100))
    assert page.is_masked(200, 100)
    page.click("undo")
    # Two fingers zoom, and paint nothing.
    before = page.place(WIDTH, 0)[0] - page.place(0, 0)[0]
    touches = [
        [page.place(200, 200), page.place(280, 200)],
        [page.place(150, 200), page.place(330, 200)],
        [page.place(100, 200), page.place(380, 200)],
    ]
    for kind, points in zip(("Start", "Move", "Move"), touches, strict=True):
        points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(points)]
        event = {"type": f"touch{kind}", "touchPoints": points}
        page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", event)
    page.driver.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    assert page.place(WIDTH, 0)[0] - page.place(0, 0)[0] > 2 * before
    assert not page.is_masked(200, 200) and not page.find("save-mask").is_enabled()


def test_methods_are_chosen_and_downloaded_with_progress(page, photo, monkeypatch):
    go = threading.Event()

    def locate(name, report):
        report(30, 120)
        go.wait(60)
        raise UserError(f"cannot download {name}: no network; try again")

    monkeypatch.setattr("glinpaint_jax.web.methods.locate", locate)
    page.open(photo)
    page.drag((100, 100), (200, 100))
    choose = "const one = document.getElementById('method'); one.value = arguments[0];"
    choose += "one.dispatchEvent(new Event('change'))"
    page.run(choose, "telea")
    page.complete()
    assert page.text("status").startswith("Telea: ")
    page.run(choose, "places")
    wait_for(lambda: "Downloading: 25 %" in page.text("status"))
    go.set()
    page.settle()
    assert page.error() == ("Places (MMagic) cannot be loaded; the server's log says why.")
    assert page.find("method").get_attribute("value") == "telea"
