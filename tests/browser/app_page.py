"""What tests of the local page do with it."""

import io
import json
import re

from PIL import Image

from quantsam.data.scenes import SceneDataset

WAIT_MS = 120_000
MASKS = ".stage canvas[data-masks='{}']"
BUTTONS = "[data-caption='{}'] .candidates button"
FIRST, SECOND = (0.13, 0.54, 0.57, 1.0), (0.6, 0.05, 0.95, 0.4)
PAINTED = """(canvas, leastAlpha) => {
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    const colours = {};
    for (let i = 0; i < data.length; i += 4) {
        if (data[i + 3] < leastAlpha) continue;
        const name = [...data.slice(i, i + 3)].join();
        colours[name] = (colours[name] ?? 0) + 1;
    }
    return colours;
}"""


def scene(seed):
    file = io.BytesIO()
    Image.fromarray(SceneDataset(30, seed=5).image(seed)).save(file, "PNG")
    return file.getvalue()


def choose(page, content, name="picture.png"):
    page.locator("#file").set_input_files({"name": name, "mimeType": "image/png", "buffer": content})


def at(page, x, y, stage=0):
    area = page.locator(".stage").nth(stage).bounding_box()
    assert area is not None
    return area["x"] + x * area["width"], area["y"] + y * area["height"]


def drag(page, left, top, right, bottom):
    page.locator(".stage").first.scroll_into_view_if_needed()
    page.mouse.move(*at(page, left, top))
    page.mouse.down()
    page.mouse.move(*at(page, right, bottom), steps=3)
    page.mouse.up()


def status(page, text):
    """Wait until the status line matches, and return it."""
    line = page.locator("#status-text").filter(has_text=re.compile(text))
    line.wait_for(timeout=WAIT_MS)
    return line.inner_text()


def painted(page, name, least_alpha=1):
    """Return how many pixels a panel's masks have of each colour."""
    return page.locator(MASKS.format(name)).evaluate(PAINTED, least_alpha)  # type: ignore[no-any-return]


def iou(page, name):
    return float(page.locator(f"[data-caption='{name}'] dd.iou").inner_text().removesuffix(" %"))


def open_first_example(page):
    page.get_by_role("button", name="Example 1").click()
    page.locator(".stage").nth(1).wait_for()


def hold(page, pattern):
    """Hold back POST requests; returns those that came, to be let go on."""
    held = []
    page.route(pattern, lambda route: held.append(route) if route.request.method == "POST" else route.continue_())
    return held


def wait_until(page, condition):
    for _ in range(WAIT_MS // 50):
        if condition():
            return
        page.wait_for_timeout(50)
    raise AssertionError("waited in vain")


def masks_of(page, prompt):
    """Do what asks for masks, and return the panels that the server sends."""
    answers = []

    def note(route):
        answer = route.fetch()
        answers.append(answer.text())
        route.fulfill(response=answer)

    page.route("**/api/masks", note)
    prompt()
    wait_until(page, lambda: answers)
    status(page, "^done")
    page.unroute("**/api/masks")
    events = [json.loads(line) for line in answers[0].splitlines()]
    return {event["name"]: event for event in events if event["event"] == "panel"}


def in_order(mask):
    return sorted([mask, *mask["others"]], key=lambda one: one["number"])


def area(page, name):
    return sum(painted(page, name).values())


def pressed(page, name):
    """Return which of a panel's masks is shown."""
    states = page.locator(BUTTONS.format(name)).evaluate_all("all => all.map((b) => b.getAttribute('aria-pressed'))")
    assert states.count("true") == 1
    return states.index("true")


def two_objects(page):
    drag(page, *FIRST)
    status(page, "^done")
    page.get_by_label("a new box keeps").check()
    return masks_of(page, lambda: drag(page, *SECOND))
