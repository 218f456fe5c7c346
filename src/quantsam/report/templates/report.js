"use strict";
// Draws each chart when it comes into sight, then the others while nothing else is to do, and all of them before printing.
(() => {
  const drawn = new Map(); // name -> promise of a Vega view
  const places = [...document.querySelectorAll("[data-chart]")];
  const options = {
    renderer: "svg",
    actions: false,
    tooltip: { theme: matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light" },
  };

  function draw(place) {
    const name = place.dataset.chart;
    if (!drawn.has(name)) {
      const spec = JSON.parse(document.getElementById(`spec-${name}`).textContent);
      spec.width = "container";
      spec.autosize = { type: "fit-x", contains: "padding" };
      const view = vegaEmbed(place, spec, options).then((result) => {
        place.style.minHeight = "";
        addButtons(place, result.view, spec);
        return result.view;
      });
      drawn.set(name, view);
    }
    return drawn.get(name);
  }

  function placeOf(name) {
    return places.find((place) => place.dataset.chart === name);
  }

  function visible(place) {
    return place.offsetParent !== null;
  }

  function button(text, label, action) {
    const made = Object.assign(document.createElement("button"), { type: "button", textContent: text });
    made.setAttribute("aria-label", label);
    made.addEventListener("click", action);
    return made;
  }

  function row(className, ...buttons) {
    const made = Object.assign(document.createElement("p"), { className });
    made.append(...buttons);
    return made;
  }

  function addButtons(place, view, spec) {
    const figure = place.closest("figure");
    const title = figure.querySelector("h4").textContent;
    const save = ["svg", "png"].map((kind) =>
      button(`save ${kind.toUpperCase()}`, `Save ${title} as ${kind.toUpperCase()}`, () => download(view, kind, place)),
    );
    figure.append(row("save", ...save));
    if (!JSON.stringify(spec).includes('"name":"zoom"')) return;
    const names = view.signal("names");
    const whole = [-0.6, names.length - 0.4];
    const scale = (factor) => {
      const [left, right] = view.signal("zoom_left") || whole;
      const [middle, half] = [(left + right) / 2, ((right - left) / 2) * factor];
      view.signal("zoom_left", factor ? [Math.max(whole[0], middle - half), Math.min(whole[1], middle + half)] : null).run();
    };
    const zoom = [
      button("zoom in", `Zoom into ${title}`, () => scale(0.5)),
      button("zoom out", `Zoom out of ${title}`, () => scale(2)),
      button("all", `Show all of ${title}`, () => scale(0)),
    ];
    place.before(row("zoom", ...zoom));
  }

  async function download(view, kind, place) {
    const link = document.createElement("a");
    link.href = await view.toImageURL(kind, 2);
    link.download = `${place.dataset.chart}.${kind}`;
    link.click();
  }

  const watcher = new IntersectionObserver(
    (entries) => {
      for (const entry of entries.filter((e) => e.isIntersecting)) {
        watcher.unobserve(entry.target);
        draw(entry.target);
      }
    },
    { rootMargin: "400px" },
  );
  places.forEach((place) => watcher.observe(place));

  // A picture of the whole page is taken without scrolling; what is folded away waits until it is opened.
  const idle = window.requestIdleCallback || ((work) => setTimeout(work, 50));
  function drawNext() {
    const next = places.find((place) => visible(place) && !drawn.has(place.dataset.chart));
    if (next) draw(next).finally(() => idle(drawNext));
  }
  addEventListener("load", () => idle(drawNext));

  // One choice goes to all charts of its block.
  for (const select of document.querySelectorAll("select[data-chosen]")) {
    select.addEventListener("change", async () => {
      for (const name of select.dataset.chosen.trim().split(" ")) {
        const view = await draw(placeOf(name));
        await view.signal("chosen", select.value).runAsync();
      }
    });
  }

  addEventListener("beforeprint", () => places.filter(visible).forEach(draw));

  // For who drives the page by a program.
  window.quantsamReport = {
    view: (name) => draw(placeOf(name)),
    number: tables.number,
    drawAll: async () => (await Promise.all(places.filter(visible).map(draw))).length,
  };
})();
