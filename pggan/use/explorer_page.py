"""The explorer's page, in NiceGUI; imported only where it is asked for."""

from __future__ import annotations

import asyncio
import base64
import random
import time
from concurrent.futures import ThreadPoolExecutor

from nicegui import app, ui
from starlette.middleware.trustedhost import TrustedHostMiddleware

from .explorer_view import View, picture, prepared, top_level
from .options import MAX_SEED
from .trained import Trained

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


class Artist:
    """Draws for all pages, one picture at a time, always by the same thread: torch keeps its workers warm for it."""

    def __init__(self, trained: Trained):
        self.thread = ThreadPoolExecutor(max_workers=1)
        self.trained = self.thread.submit(prepared, trained).result()

    async def draw(self, view: View) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self.thread, picture, self.trained, view)


class Page:
    """One browser's view. While a picture is drawn, of the views asked for meanwhile only the last is drawn next."""

    def __init__(self, artist: Artist, title: str):
        self.artist, self.trained = artist, artist.trained
        self.view = View(level=top_level(self.trained), alpha=self.trained.alpha).checked(self.trained)
        self.drawing = self.outdated = False
        ui.add_css(STYLE)
        with ui.row(wrap=True).classes("w-full items-start gap-8"):
            with ui.column().classes("frame gap-1"):
                self.image = ui.element("img").classes("picture").props('alt="generated image" id=picture')
                self.caption = ui.label().props("id=caption").classes("text-sm")
            with ui.column().classes("controls gap-1"):
                ui.label(title).classes("text-lg")
                self.controls()
        ui.timer(0, self.refresh, once=True)

    def controls(self) -> None:
        with ui.row(wrap=False).classes("w-full items-center"):
            self.number("seed", "seed")
            ui.button("random", on_click=self.randomise).props("flat no-caps")
        self.slider("seed", "seed", 999, 1)
        if self.trained.classes:
            names = {i: self.trained.classes[i] for i in self.trained.drawable}
            select = ui.select(names, label="label", on_change=self.refresh).classes("w-full")
            select.props("id=label").bind_value(self.view, "label")
        self.slider("truncation", "truncation", 1, 0.01)
        if len(self.trained.resolutions) > 1:
            self.slider("stage", "level", top_level(self.trained), 1)
            if self.trained.grew:
                self.slider("alpha", "alpha", 1, 0.01)
        self.number("walk towards seed", "towards")
        self.slider("walk", "walk", 1, 0.01)
        ui.button("Download PNG", on_click=self.download).props("no-caps id=download").classes("mt-4")

    def number(self, label: str, name: str) -> None:
        field = ui.number(label, min=0, max=MAX_SEED, precision=0, on_change=self.refresh).classes("grow")
        field.bind_value(self.view, name)

    def slider(self, label: str, name: str, largest: float, step: float) -> None:
        with ui.row(wrap=False).classes("w-full items-center"):
            ui.label(label).classes("w-20 shrink-0 text-sm")
            slider = ui.slider(min=0, max=largest, step=step, on_change=self.refresh)
            slider.bind_value(self.view, name).props(f'aria-label="{label}"').classes("grow mx-2")
            shown = ui.label().classes("w-16 shrink-0 text-sm text-right")
            shown.bind_text_from(self.view, name, lambda value: value_text(name, value))

    async def refresh(self) -> None:
        self.outdated = True
        if self.drawing:
            return
        self.drawing = True
        try:
            while self.outdated:
                self.outdated = False
                await self.show(self.view.checked(self.trained))
        finally:
            self.drawing = False

    async def show(self, view: View) -> None:
        start = time.perf_counter()
        png = await self.artist.draw(view)
        milliseconds = 1000 * (time.perf_counter() - start)
        source = "data:image/png;base64," + base64.b64encode(png).decode()
        self.image.props(f'src="{source}"')
        size = f"{view.resolution}x{view.resolution}"
        self.caption.text = f"{size}, alpha {view.alpha:g}, seed {view.seed}; drawn in {milliseconds:.0f} ms"

    def randomise(self) -> None:
        self.view.seed = random.randrange(MAX_SEED + 1)  # the bound field and slider follow, and ask for the picture

    async def download(self) -> None:
        view = self.view.checked(self.trained)
        ui.download.content(await self.artist.draw(view), view.file_name(self.trained), "image/png")


def value_text(name: str, value: float | None) -> str:
    """As in 16x16 for a stage, 0.75."""
    if value is None:
        return ""
    return f"{4 << int(value)}x{4 << int(value)}" if name == "level" else f"{value:g}"


async def announce(port: int) -> None:
    """Print the address once it answers; NiceGUI's own start handlers run a moment before it listens."""
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.1)
        else:
            writer.close()
            print(f"http://127.0.0.1:{port}/  (Ctrl-C ends)", flush=True)
            return


def serve(trained: Trained, title: str, port: int, open_browser: bool) -> None:
    """Show the page on 127.0.0.1 until Ctrl-C."""
    artist = Artist(trained)
    # A page elsewhere whose name leads to this machine is not to look in.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
    app.on_startup(lambda: announce(port))
    ui.run(
        lambda: Page(artist, title), host="127.0.0.1", port=port, title=title, show=open_browser, reload=False,
        dark=None, show_welcome_message=False,
    )  # fmt: skip
