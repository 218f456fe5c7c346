"use strict";
// Draws each chart when it comes into sight, and all of them before printing.
(() => {
  const drawn = new Map(); // name -> promise of a Vega view

  const options = {
    renderer: "svg",
    actions: { export: true, source: false, compiled: false, editor: false },
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
        place.dataset.drawn = "yes";
        return result.view;
      });
      drawn.set(name, view);
    }
    return drawn.get(name);
  }

  const places = [...document.querySelectorAll("[data-chart]")];
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

  function placeOf(name) {
    return places.find((place) => place.dataset.chart === name);
  }

  function visible(place) {
    return place.offsetParent !== null;
  }

  // One choice goes to all charts of its block.
  for (const select of document.querySelectorAll("select[data-chosen]")) {
    select.addEventListener("change", async () => {
      for (const name of select.dataset.chosen.trim().split(" ")) {
        const view = await draw(placeOf(name));
        await view.signal("chosen", select.value).runAsync();
      }
    });
  }

  addEventListener("beforeprint", () => {
    document.querySelectorAll("details.gallery").forEach((details) => details.setAttribute("open", ""));
    places.filter(visible).forEach(draw);
  });

  // For who drives the page by a program.
  window.quantsamReport = {
    view: (name) => draw(placeOf(name)),
    drawAll: async () => (await Promise.all(places.filter(visible).map(draw))).length,
  };
})();
