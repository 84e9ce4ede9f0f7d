"""Uses the page in headless Chromium: open, paint, erase, complete, download."""

import contextlib
import shutil

import cv2
import numpy as np
import PIL.Image
import pytest
import skimage.data
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By

from tests.helpers.serving import wait_for

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="needs chromium and chromedriver (Debian: apt install chromium chromium-driver)",
)
FLAGS = (
    "--headless",
    "--no-sandbox",  # unavailable to root, as in containers
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-quic",
    "--disable-sync",
    "--no-first-run",
    "--window-size=1300,1000",
)
WIDTH, HEIGHT = 480, 320


class Page:
    """The served page, as a person sees it."""

    def __init__(self, driver):
        self.driver = driver

    def find(self, selector):
        """Waits for the first visible match."""

        def shown():
            found = self.driver.find_elements(By.CSS_SELECTOR, selector)
            with contextlib.suppress(StaleElementReferenceException):  # the page was changing
                return next((element for element in found if element.is_displayed()), None)

        return wait_for(shown)

    def open(self, place, path):
        """Opens a file through the hidden file input."""
        inputs = f"{place} input[type=file]"
        wait_for(lambda: self.driver.find_elements(By.CSS_SELECTOR, inputs))[0].send_keys(str(path))
        wait_for(lambda: path.stem in self.find(place).text)

    def drag(self, tool, offsets):
        """Drags an editor tool along screen offsets in pixels from the editor's centre."""
        self.find(f"#editor button[aria-label={tool!r}]").click()
        canvas = self.find("#editor canvas")
        start, *others = offsets
        actions = ActionChains(self.driver)
        actions.move_to_element_with_offset(canvas, *start).click_and_hold()
        for offset in others:
            actions.move_to_element_with_offset(canvas, *offset)
        actions.release().perform()


@pytest.fixture
def page(server, tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'chromium'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "got")})
    driver = webdriver.Chrome(options, webdriver.ChromeService(DRIVER))
    try:
        driver.get(server[0])
        yield Page(driver)
        driver.save_screenshot(str(tmp_path / "page.png"))
    finally:
        driver.quit()


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "cup.png"
    PIL.Image.fromarray(skimage.data.coffee()[:HEIGHT, :WIDTH]).save(path)
    return path


def pixels(path):
    with PIL.Image.open(path) as image:
        return np.array(image)


def download(page, tmp_path):
    """Downloads the result and returns its pixels."""
    page.find("#download").click()
    path = tmp_path / "got" / "cup-completed.png"
    wait_for(path.exists)
    return pixels(path)


def test_paint_erase_complete_download(page, photo, tmp_path):
    page.open("#photo", photo)
    wait_for(lambda: "%" in page.find("#editor").text)  # shows its zoom once the image is loaded
    page.drag("Brush", [(-100, -40), (0, -40), (100, -40)])
    page.drag("Erase", [(60, -80), (60, -40), (60, 0)])
    page.find("#complete").click()
    page.find("#result img")
    wait_for(lambda: f"{WIDTH} x {HEIGHT}" in page.find("#summary").text)

    before, after = pixels(photo), download(page, tmp_path)
    changed = (before != after).any(-1)
    # Exactly two blobs, left and right of the erased stroke, above the middle.
    joined = cv2.morphologyEx(changed.astype(np.uint8), cv2.MORPH_CLOSE, np.ones((9, 9)))
    count, _, boxes, centres = cv2.connectedComponentsWithStats(joined)
    assert count - 1 == 2, boxes
    (left, above), (right, also_above) = sorted(centres[1:].tolist())
    assert left < WIDTH / 2 < right and abs(above - also_above) < 10
    assert above < HEIGHT / 2


def test_a_mask_file(page, photo, tmp_path):
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[100:150, 200:280] = True
    PIL.Image.fromarray(hole).save(tmp_path / "hole.png")
    page.open("#photo", photo)
    page.find("#more button").click()
    page.open("#mask", tmp_path / "hole.png")
    page.find("#complete").click()
    before, after = pixels(photo), download(page, tmp_path)
    np.testing.assert_array_equal(after[~hole], before[~hole])
    assert (after[hole] != before[hole]).any(-1).mean() > 0.9


def test_errors_are_shown(page, tmp_path):
    page.find("#complete").click()
    wait_for(lambda: "there is no photograph yet" in page.find(".toast-body").text)
    (tmp_path / "text.jpg").write_text("no image")
    page.open("#photo", tmp_path / "text.jpg")
    wait_for(lambda: "text.jpg is not an image" in page.find(".toast-wrap").text)
