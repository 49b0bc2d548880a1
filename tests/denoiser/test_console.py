"""The page at /console in a real headless browser, on a desktop and on a phone, with mouse, fingers and keyboard.

SCREENSHOTS=FOLDER keeps pictures of what was seen.
"""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from bench.ports import free_port
from tests.denoiser.texts import sentences
from tests.servers import Server, running

CHROMIUM = shutil.which("chromium")
SECONDS = 240
KEY = "s3cret-ключ"
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is missing; on Debian: apt-get install chromium")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder, port = tmp_path_factory.mktemp("console"), free_port()
    env = {"DENOISER_DATA": str(folder / "data"), "TRAIN_STEPS": "150", "API_KEY": KEY}
    with running(
        [sys.executable, "-m", "denoiser", "serve", "--port", str(port)], folder / "log", port, env
    ) as service:
        yield service


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"], timeout=1000 * SECONDS)
        yield browser
        browser.close()


@pytest.fixture(params=["desktop", "phone"])
def page(request: pytest.FixtureRequest, browser: Browser, service: Server) -> Iterator[Page]:
    """The page with the key given; nothing may be asked of another host or fail in its scripts."""
    size = {"desktop": (1280, 900), "phone": (390, 844)}[request.param]
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]}, has_touch=request.param == "phone", color_scheme="light"
    )
    page, bugs, hosts = context.new_page(), list[str](), set[str]()
    page.set_default_timeout(1000 * SECONDS)
    expect.set_options(timeout=1000 * SECONDS)
    page.on("pageerror", lambda error: bugs.append(str(error)))
    page.on("request", lambda sent: hosts.add(sent.url.split("/")[2]))
    page.goto(f"{service.url}/console")
    page.get_by_label("API key").fill(KEY)
    page.get_by_role("button", name="Use this key").click()
    expect(page.get_by_text("in use")).to_be_visible(timeout=1000 * SECONDS)
    yield page
    shown = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert page.evaluate(shown), "the page is wider than the screen"
    assert bugs == []
    assert hosts == {service.url.removeprefix("http://")}
    picture(page, f"{request.node.originalname}-{request.param}")
    context.close()


def picture(page: Page, name: str) -> None:
    if folder := os.environ.get("SCREENSHOTS"):
        page.screenshot(path=Path(folder) / f"{name}.png", full_page=True)


def test_noise_is_seen_and_seen_removed(page: Page) -> None:
    page.get_by_label("Noise level").fill("0.1")
    page.get_by_role("button", name="Add noise, then remove it").click()
    expect(page.locator("#summary")).to_contain_text("Cosine to the clean vectors")
    for name in ("without noise", "with noise", "denoised"):
        expect(page.get_by_role("img", name=f"{name}: similarity of 9 texts")).to_be_visible()
        expect(page.get_by_role("img", name=f"{name}: ").last).to_be_visible()
    assert page.locator("#map svg").count() == 3
    expect(page.locator("#map figure").first).to_contain_text("9 of 9 nearest kept")
    noisy, denoised = (float(word) for word in _cosines(page.locator("#summary").inner_text()))
    assert denoised > noisy


def _cosines(summary: str) -> list[str]:
    words = summary.split("vectors: ")[1].split(". Squared", maxsplit=1)[0].replace(",", "").split()
    return [words[0], words[3]]


def test_too_few_texts_are_refused_in_words(page: Page) -> None:
    page.get_by_label("Texts, one a line").fill("only one")
    page.get_by_role("button", name="Add noise, then remove it").click()
    expect(page.get_by_role("alert")).to_contain_text("There are 1 texts")


def test_a_bad_file_is_refused_in_words(page: Page, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("Only one line.")
    page.get_by_label("UTF-8 text").set_input_files(tmp_path / "short.txt")
    page.get_by_role("button", name="Upload and train").click()
    expect(page.get_by_role("alert")).to_contain_text("found 1 different sentences")


@pytest.mark.parametrize("page", ["phone"], indirect=True)
def test_a_file_is_trained_on_and_the_model_switched(page: Page, tmp_path: Path) -> None:
    (tmp_path / "team.txt").write_text(sentences(150))
    page.get_by_label("UTF-8 text").set_input_files(tmp_path / "team.txt")
    page.get_by_role("button", name="Upload and train").click()
    expect(page.locator("#job-state")).to_contain_text(re.compile("training, |evaluating|promoting|done"))
    picture(page, "training")
    expect(page.get_by_role("img", name="loss 0.")).to_be_visible()
    expect(page.locator("#job-state")).to_contain_text("done")
    expect(page.get_by_role("cell", name="new model")).to_have_count(3)
    expect(page.locator("#verdict")).to_contain_text("held-out sentences")
    expect(page.get_by_text("in use")).to_have_count(1)
    switch = page.get_by_role("button", name="Switch to").first
    name = (switch.get_attribute("aria-label") or "").removeprefix("Switch to ")
    switch.click()
    expect(page.get_by_role("button", name=f"Switch to {name}")).to_have_count(0)
    expect(page.get_by_text("in use")).to_have_count(1)


def test_everything_can_be_reached_and_used_from_the_keyboard(page: Page) -> None:
    reached: list[str] = []
    while "file" not in reached and len(reached) < 20:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if reached[-1] == "level":
            page.keyboard.press("ArrowRight")
        if reached[-1] == "try":
            page.keyboard.press("Enter")
            expect(page.locator("#summary")).to_contain_text("Cosine")
    assert [name for name in reached if name in ("texts", "level", "mode", "seed", "try", "file")] == [
        "texts", "level", "mode", "seed", "try", "file",
    ]  # fmt: skip
    assert page.locator("#level-shown").inner_text() == "0.11"
