"""A real browser for the tests of pages."""

import shutil

import pytest

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
