"""The report and the explorer in a real browser; skipped if none is installed."""

import os
import re
import select
import shutil
import signal
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import pggan
from pggan import checkpoints
from pggan.networks import Generator

NETWORK = {"resolution": 16, "channels": 3, "label_size": 2, "fmap_base": 64, "fmap_max": 8}


@pytest.fixture(scope="session")
def browser():
    """Return a headless Chromium."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install playwright")
    with playwright.sync_playwright() as p:
        names = ("chromium", "chromium-browser", "google-chrome")
        path = next(filter(None, map(shutil.which, names)), p.chromium.executable_path)
        if not Path(path).exists():
            pytest.skip("needs Chromium: apt-get install chromium, or playwright install chromium")
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = p.chromium.launch(executable_path=path, args=sandbox)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Return a function that opens an address; at teardown, fail on script errors and requests to other hosts."""
    contexts, problems = [], []

    def open_page(address, **options):
        contexts.append(browser.new_context(**{"viewport": {"width": 1200, "height": 900}} | options))
        page = contexts[-1].new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: problems.append(str(error)))
        allowed = (address, address.replace("http:", "ws:"), "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(allowed) else problems.append(f"asked for {r.url}"))
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def find_visible(page, selector):
    return [e for e in page.query_selector_all(selector) if e.is_visible()]


@pytest.fixture
def report(finished_run):
    """Return the address of the report that training wrote at its end."""
    return (finished_run / "report.html").as_uri()


def test_slider_steps_through_training(report, open_page):
    page = open_page(report)
    slider, caption = page.locator("#slider"), page.locator("#caption")
    assert caption.inner_text().startswith("generated: 16x16, alpha 1, 1.504 kimg")
    assert [len(find_visible(page, s)) for s in (".fakes img", ".reals img")] == [1, 1]
    last = find_visible(page, ".fakes img")[0].get_attribute("src")
    slider.focus()
    slider.press("Home")
    assert caption.inner_text().startswith("generated: 4x4, alpha 1, 0.128 kimg")
    slider.press("ArrowRight")
    assert "0.224 kimg" in caption.inner_text()
    (image,) = find_visible(page, ".fakes img")
    assert image.get_attribute("src") != last and image.evaluate("image => image.naturalWidth") > 100
    page.get_by_role("button", name="8x8", exact=True).click()
    assert caption.inner_text().startswith("generated: 8x8") and [len(find_visible(page, ".fakes img"))] == [1]


def test_curve_values_follow_the_pointer_and_arrow_keys(report, open_page):
    page = open_page(report)
    charts = page.locator(".chart")
    assert charts.count() >= 8
    before = charts.nth(0).locator(".at").inner_text()
    charts.nth(0).locator("svg").first.hover(position={"x": 60, "y": 60})
    early = charts.nth(0).locator(".at").inner_text()
    assert early != before and charts.nth(1).locator(".at").inner_text() == early
    charts.nth(0).focus()
    page.keyboard.press("ArrowRight")
    assert charts.nth(0).locator(".at").inner_text() != early


def test_report_fits_a_phone_and_follows_dark_mode(report, open_page):
    phone = open_page(report, viewport={"width": 375, "height": 800}, color_scheme="dark")
    assert phone.evaluate("document.documentElement.scrollWidth") == 375
    background = "getComputedStyle(document.body).backgroundColor"
    dark = phone.evaluate(background)
    phone.emulate_media(color_scheme="light")
    assert dark != phone.evaluate(background)


def test_printed_report_shows_every_stage(report, open_page):
    page = open_page(report, color_scheme="dark")
    page.emulate_media(media="print")
    assert [len(find_visible(page, s)) for s in (".fakes img", ".reals img", "#slider")] == [3, 3, 0]
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_report_is_readable_without_javascript(report, open_page):
    page = open_page(report, java_script_enabled=False)
    assert len(find_visible(page, ".fakes img")) == 3 and not find_visible(page, "#slider")


@pytest.fixture
def checkpoint(tmp_path):
    """Return the path of a checkpoint of an untrained conditional generator up to 16x16."""
    torch.manual_seed(0)
    path = tmp_path / "latest.pt"
    checkpoints.save(
        path,
        {
            "images": 1000,
            "stage": {"resolution": 16, "alpha": 1.0},
            "config": {"data": "pets"},
            "networks": {"generator": NETWORK},
            "classes": ["<b>cat</b>", "dog"],
            "state": {"G_ema": Generator(**NETWORK).state_dict()},
        },
    )
    return path


@pytest.fixture
def explorer(new_commands, checkpoint):
    """Return the address of a running explorer, and stop it with SIGINT at teardown."""
    pytest.importorskip("nicegui", reason="needs NiceGUI: pip install nicegui")
    new_commands.environment.pop("PYTEST_CURRENT_TEST", None)  # NiceGUI would run in its own test mode
    process = new_commands.start("-m", "pggan", "explore", checkpoint, "--no-open", "--device", "cpu")
    ready, _, _ = select.select([process.stdout], [], [], 60)
    line = process.stdout.readline() if ready else ""
    address = re.match(r"http://127\.0\.0\.1:\d+/", line)
    if not address:
        process.kill()
        pytest.fail(f"no address: {line} {process.communicate()[1]}")
    yield address[0]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=300)
    assert process.returncode in (0, 130) and "Traceback" not in errors, errors


def get_image_source(page):
    return page.locator("#picture").get_attribute("src")


def find_slider(page, name):
    """Return the element of a slider that receives the keyboard focus."""
    return page.get_by_label(name, exact=True).and_(page.get_by_role("slider")).locator("[tabindex]")


def wait_for_new_image(page, old):
    page.wait_for_function("old => document.querySelector('#picture').src !== old", arg=old, timeout=10_000)
    return get_image_source(page)


def test_every_explorer_control_changes_the_image(explorer, open_page):
    page = open_page(explorer)
    page.wait_for_selector("#picture[src]")
    current = get_image_source(page)
    for name, key in (
        ("seed", "ArrowRight"),
        ("truncation", "ArrowLeft"),
        ("alpha", "ArrowLeft"),
        ("interpolation", "ArrowRight"),
    ):
        for _ in range(20):
            find_slider(page, name).press(key)
        current = wait_for_new_image(page, current)
    page.locator("label", has=page.locator("#label")).or_(page.locator(".q-select")).first.click()
    page.get_by_role("option", name="dog").click()
    current = wait_for_new_image(page, current)
    page.get_by_role("button", name="random").click()
    current = wait_for_new_image(page, current)
    for _ in range(2):
        find_slider(page, "stage").press("ArrowLeft")
    wait_for_new_image(page, current)
    page.wait_for_function("document.querySelector('#picture').naturalWidth === 4")
    assert "4x4" in page.locator("#caption").inner_text()


def test_download_is_the_sample_for_the_chosen_seed(explorer, open_page, checkpoint):
    page = open_page(explorer)
    page.wait_for_selector("#picture[src]")
    page.get_by_label("seed", exact=True).and_(page.get_by_role("spinbutton")).fill("4000000")
    page.wait_for_function("document.querySelector('#caption').textContent.includes('seed 4000000')")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download").click()
    assert download.value.suggested_filename == "seed-4000000-label-0-16x16.png"
    pixels = np.asarray(Image.open(download.value.path())).astype(int)
    (expected,) = pggan.load(checkpoint).sample(1, seed=4000000, labels=torch.tensor([0])).numpy()
    assert np.abs(pixels - expected.transpose(1, 2, 0)).max() <= 1


def test_explorer_rejects_other_hosts_and_addresses(explorer):
    port = int(explorer.rsplit(":")[-1].strip("/"))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\nConnection: close\r\n\r\n")
        assert connection.recv(100).startswith(b"HTTP/1.1 400")
    # Linux routes all of 127.0.0.0/8 to itself: 127.0.0.2 would reach a server that listens on all addresses.
    if os.uname().sysname == "Linux":
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=5)


def test_port_in_use_is_reported(commands, checkpoint):
    pytest.importorskip("nicegui", reason="needs NiceGUI: pip install nicegui")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        process = commands.run("-m", "pggan", "explore", checkpoint, "--port", listener.getsockname()[1], "--no-open")
    assert (
        process.returncode == 2 and process.err.startswith("python -m pggan: --port") and "Traceback" not in process.err
    )


def test_missing_nicegui_is_reported_with_the_install_command(new_commands, checkpoint):
    blocked = new_commands.folder / "blocked"
    blocked.mkdir()
    (blocked / "nicegui.py").write_text("raise ImportError('No module named nicegui')")
    new_commands.environment["PYTHONPATH"] = os.pathsep.join([str(blocked), new_commands.environment["PYTHONPATH"]])
    process = new_commands.run("-m", "pggan", "explore", checkpoint, "--no-open")
    assert process.returncode == 2 and "pip install nicegui" in process.err and "Traceback" not in process.err
