"""A real browser for the tests of pages, and the local page's server."""

import shutil
import threading

import pytest
import torch

CHROMIUM_OPTIONS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser():
    """Chromium of this machine, one for each file: while it runs, no test may call `asyncio.run`."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("there is no chromium on this machine")
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=chromium, args=CHROMIUM_OPTIONS)
        yield opened
        opened.close()


@pytest.fixture
def open_page(browser):
    """Open pages, each as a user of its own: open_page(url, width=1280, height=900, dark=False) -> page.

    What the page's console calls an error, and errors that its scripts do not catch, fail the test when it ends,
    but for those that contain one of the texts in `expect_errors`. Further options are those of a context.
    """
    contexts = []
    found = []

    def call(
        url,
        width=1280,
        height=900,
        dark=False,
        expect_errors=(),
        **options,
    ):
        scheme = "dark" if dark else "light"
        size = {"width": width, "height": height}
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce", **options)
        contexts.append(context)
        page = context.new_page()

        def note(text):
            if not any(expected in text for expected in expect_errors):
                found.append(text)

        page.on("console", lambda message: note(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: note(str(error)))
        page.goto(url)
        return page

    yield call
    for context in contexts:
        context.close()
    assert found == []


@pytest.fixture(scope="module")
def address():
    """A server of nano with two schemes, calibrated on two scenes; one for each file."""
    import uvicorn

    from quantsam.app.catalogue import Catalogue
    from quantsam.app.limits import Limits
    from quantsam.app.listen import open_socket
    from quantsam.app.server import Page as Server
    from quantsam.data.open import open_images
    from quantsam.models.zoo import load_model
    from quantsam.schemes.load import load_scheme

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = load_model("nano")
    schemes = {name: load_scheme(name) for name in ("int8", "mix-dwsc")}
    catalogue = Catalogue({"nano": model}, schemes, ("pytorch",), {"nano": open_images("scenes:2")})
    page = Server(catalogue, Limits(upload_bytes=1_000_000))
    listener = open_socket("127.0.0.1", 0)
    config = uvicorn.Config(page.app({"127.0.0.1"}), http="h11", ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
    server.should_exit = True
    thread.join()
    page.worker.stop()
    listener.close()
    torch.set_num_threads(before)


@pytest.fixture
def open_app(open_page, address):
    """Open the page and wait until it can be used."""

    def call(**options):
        page = open_page(address, **options)
        page.locator("body[data-ready]").wait_for()
        return page

    return call
