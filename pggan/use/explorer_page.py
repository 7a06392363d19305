"""The explorer's web page. Imported by the explore command only, since NiceGUI is an optional dependency."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from concurrent.futures import ThreadPoolExecutor

from nicegui import app, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .explorer_view import View, last_level, prepare_for_rendering, render_png
from .options import MAX_SEED
from .trained import Trained

# Pixels stay sharp when a small image is enlarged. On a phone the image stays in view while the controls scroll.
STYLE = """
  .picture { image-rendering: pixelated; width: 100%; border-radius: 6px; }
  .nicegui-content { max-width: 1100px; margin: 0 auto; }
  .frame { flex: 1 1 320px; max-width: 640px; position: sticky; top: 0; z-index: 1; }
  .controls { flex: 1 1 320px; }
  @media (max-width: 700px) {
    .frame { background: inherit; flex-basis: 100%; }
    .picture { width: min(100%, 42vh); }
    .nicegui-content, .nicegui-content > .nicegui-row { background: inherit; }
  }
"""


class Renderer:
    """Draw images for all open pages, one at a time.

    They are drawn in one thread, apart from the event loop, which stays responsive. torch's worker threads belong to
    the thread that calls it, so a new thread for each image would start cold.
    """

    def __init__(self, trained: Trained):
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.trained = self.thread.submit(prepare_for_rendering, trained).result()

    async def draw(self, view: View) -> bytes:
        """Return the view as the bytes of a PNG file."""
        return await asyncio.get_running_loop().run_in_executor(self.thread, render_png, self.trained, view)


class Page:
    """One browser's page: an image and its controls.

    A slider sends more changes than can be drawn. While an image is being drawn, changes only mark it as outdated, and
    the next image is drawn from the controls' latest values.
    """

    def __init__(self, artist: Renderer, title: str):
        self.artist, self.trained = artist, artist.trained
        self.view = View(level=last_level(self.trained), alpha=self.trained.alpha).clamp(self.trained)
        self.drawing = self.outdated = False
        ui.add_css(STYLE)
        with ui.row(wrap=True).classes("w-full items-start gap-8"):
            with ui.column().classes("frame gap-1"):
                self.image = ui.element("img").classes("picture").props('alt="generated image" id=picture')
                self.caption = ui.label().props("id=caption").classes("text-sm")
            with ui.column().classes("controls gap-1"):
                ui.label(title).classes("text-lg")
                self.controls()
        ui.timer(0, self.refresh, once=True)  # draw the first image once the page is connected

    def controls(self) -> None:
        """Add the controls this generator has: no class menu without classes, no alpha without progressive growing."""
        with ui.row(wrap=False).classes("w-full items-center"):
            self.number("seed", "seed")
            ui.button("random", on_click=self.randomize).props("flat no-caps")
        self.slider("seed", "seed", 999, 1)  # a thousand seeds to browse; the field takes any
        if self.trained.classes:
            names = {i: self.trained.classes[i] for i in self.trained.drawable}
            select = ui.select(names, label="class", on_change=self.refresh).classes("w-full")
            select.props("id=label").bind_value(self.view, "label")
        self.slider("truncation", "truncation", 1, 0.01)
        if len(self.trained.resolutions) > 1:
            self.slider("stage", "level", last_level(self.trained), 1)
            if self.trained.is_grown:
                self.slider("alpha", "alpha", 1, 0.01)
        self.number("target seed", "towards")
        self.slider("interpolation", "walk", 1, 0.01)
        ui.button("Download PNG", on_click=self.download).props("no-caps id=download").classes("mt-4")

    def number(self, label: str, name: str) -> None:
        """Add a field for a seed, bound to the view's attribute `name`."""
        field = ui.number(label, min=0, max=MAX_SEED, precision=0, on_change=self.refresh).classes("grow")
        field.bind_value(self.view, name)

    def slider(self, label: str, name: str, largest: float, step: float) -> None:
        """Add a slider from 0 to `largest`, bound to the view's attribute `name`, with its value beside it."""
        with ui.row(wrap=False).classes("w-full items-center"):
            ui.label(label).classes("w-24 shrink-0 text-sm")
            slider = ui.slider(min=0, max=largest, step=step, on_change=self.refresh)
            slider.bind_value(self.view, name).props(f'aria-label="{label}"').classes("grow mx-2")
            shown = ui.label().classes("w-16 shrink-0 text-sm text-right")
            shown.bind_text_from(self.view, name, lambda value: format_value(name, value))

    async def refresh(self) -> None:
        """Draw the view, and again until it is up to date."""
        self.outdated = True
        if self.drawing:
            return
        self.drawing = True
        try:
            while self.outdated:
                self.outdated = False
                await self.show(self.view.clamp(self.trained))
        finally:  # also if drawing fails, so that the next change is drawn
            self.drawing = False

    async def show(self, view: View) -> None:
        """Draw one view and show it with its caption."""
        start = time.perf_counter()
        png = await self.artist.draw(view)
        milliseconds = 1000 * (time.perf_counter() - start)
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        self.image.props(f'src="{source}"')
        size = f"{view.resolution}x{view.resolution}"
        self.caption.text = f"{size}, alpha {view.alpha:g}, seed {view.seed}, drawn in {milliseconds:.0f} ms"

    def randomize(self) -> None:
        """Choose a random seed."""
        self.view.seed = random.randrange(MAX_SEED + 1)  # the bound field's on_change redraws

    async def download(self) -> None:
        """Send the image as a PNG file, at the resolution it is drawn at."""
        view = self.view.clamp(self.trained)
        ui.download.content(await self.artist.draw(view), view.file_name(self.trained), "image/png")


def format_value(name: str, value: float | None) -> str:
    """Return a slider's value as text, such as 0.75, or 16x16 for the stage; an empty field has none."""
    if value is None:
        return ""
    return f"{4 << int(value)}x{4 << int(value)}" if name == "level" else f"{value:g}"


async def announce(port: int) -> None:
    """Print the page's address once the server accepts connections.

    NiceGUI's startup handlers run shortly before it listens, and an address printed then may be opened too early.
    """
    for _ in range(600):  # a minute: a slow machine needs some seconds, and a server that never listens reports itself
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            print(f"http://127.0.0.1:{port}/  (stop with Ctrl-C)", flush=True)
            return


def serve(trained: Trained, title: str, port: int, open_browser: bool) -> None:
    """Serve the page on 127.0.0.1 until Ctrl-C."""
    artist = Renderer(trained)
    # Against DNS rebinding: a web page whose host name resolves to 127.0.0.1 could otherwise read this one.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    app.on_startup(lambda: announce(port))
    ui.run(
        lambda: Page(artist, title),
        host="127.0.0.1",
        port=port,
        title=title,
        show=open_browser,
        reload=False,  # do not watch the source files
        dark=None,  # follow the system's setting
        show_welcome_message=False,
    )
