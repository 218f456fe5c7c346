"use strict";
// Compares any two results of a task: the page holds the IoU of each object once a result.
(() => {
  function bytes(text) {
    return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  }

  // Whole numbers of so many bytes each, the highest byte first.
  function integers(text, width) {
    const raw = bytes(text);
    const found = new Array(raw.length / width).fill(0);
    for (let at = 0; at < raw.length; at++) found[Math.floor(at / width)] = found[Math.floor(at / width)] * 256 + raw[at];
    return found;
  }

  function meanAndError(values) {
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
    if (values.length < 2) return [mean, null];
    const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
    return [mean, Math.sqrt(squares / (values.length - 1) / values.length)];
  }

  const signed = (value) => (value < 0 || Object.is(value, -0) ? "" : "+") + value.toFixed(2);
  const whole = (value) => value.toLocaleString("en-US");
  const points = ([mean, error]) => (error === null ? signed(mean) : `${signed(mean)} ± ${error.toFixed(2)}`);

  function read(name) {
    const data = JSON.parse(document.getElementById(`data-${name}`).textContent);
    const sizes = integers(data.size, 1).map((number) => data.sizes[number]);
    const categories = integers(data.category, 2).map((number) => data.categories[number] ?? null);
    const images = integers(data.image, 3).map((number) => data.images[number]);
    const annotations = data.annotation.split(" ");
    const ious = new Map();
    const of = (number) => {
      const { ious: packed } = data.results[number];
      if (!ious.has(number)) ious.set(number, integers(packed, 3).map((value) => (100 * value) / data.whole));
      return ious.get(number);
    };
    return { ...data, sizes, sizeNames: data.sizes, categories, images, annotations, of };
  }

  // The objects of two results, each with its difference, second less first.
  function pair(data, first, second) {
    const [before, after] = [data.of(first), data.of(second)];
    return after.map((iou, number) => ({ number, before: before[number], after: iou, change: iou - before[number] }));
  }

  function counts(objects, tie) {
    const better = objects.filter((object) => object.change > tie).length;
    const worse = objects.filter((object) => object.change < -tie).length;
    return [better, worse, objects.length - better - worse];
  }

  function groupRows(objects, keys, tie) {
    const groups = new Map();
    for (const object of objects) {
      const key = keys[object.number] ?? "(none)";
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(object);
    }
    return [...groups].map(([name, members]) => {
      const change = meanAndError(members.map((object) => object.change));
      const [after] = meanAndError(members.map((object) => object.after));
      const means = [(after - change[0]).toFixed(2), after.toFixed(2)];
      const cells = [name, whole(members.length), ...means, points(change), ...counts(members, tie).map(whole)];
      return { name, change: change[0], cells };
    });
  }

  // As `worst_first` orders them: what lies behind four digits is rounding.
  function worstOf(objects, most) {
    const key = (object) => Math.round(1e4 * object.change);
    return [...objects].sort((a, b) => key(a) - key(b) || a.number - b.number).slice(0, most);
  }

  function worstRow(data, object) {
    const { number, before, after, change } = object;
    const names = [data.annotations[number], data.categories[number] ?? "", data.images[number], data.sizes[number]];
    return [...names, before.toFixed(2), after.toFixed(2), signed(change)];
  }

  // Copies of the gallery's objects: the second result's masks beside FP32's, then the first one's.
  function pictures(data, worst, numbers) {
    const ids = numbers.map((number) => data.results[number].id);
    const keys = worst.flatMap((object) => ids.map((id) => `${id}:${data.annotations[object.number]}`));
    const found = keys.map((key) => document.querySelector(`.gallery [data-object="${key}"]`));
    const copies = found.filter(Boolean).map((figure) => figure.cloneNode(true));
    for (const copy of copies) copy.querySelectorAll(".repaired").forEach((panel) => panel.remove()); // of a third result
    return copies;
  }

  function show(section, data) {
    const [first, second] = ["first", "second"].map((which) =>
      Number(section.querySelector(`[data-which="${which}"]`).value),
    );
    const objects = pair(data, first, second);
    const [one, other] = [data.results[first], data.results[second]];
    const [better, worse, alike] = counts(objects, data.tie).map(whole);
    section.querySelector(".summary").textContent =
      `${other.name} less ${one.name}: ${points(meanAndError(objects.map((object) => object.change)))} points of mIoU ` +
      `over ${whole(objects.length)} objects. ${better} objects are better, ${worse} worse, ` +
      `${alike} within ${Math.round(100 * data.tie) / 100} points.`;
    section.querySelector("code").textContent =
      `quantsam results --compare ${one.id.slice(0, 8)} ${other.id.slice(0, 8)}`;
    const sizes = groupRows(objects, data.sizes, data.tie);
    sizes.sort((a, b) => data.sizeNames.indexOf(a.name) - data.sizeNames.indexOf(b.name));
    const categories = groupRows(objects, data.categories, data.tie).sort((a, b) => a.change - b.change);
    const worst = worstOf(objects, data.worst);
    const rows = {
      size: sizes.map((group) => group.cells),
      category: categories.map((group) => group.cells),
      worst: worst.map((object) => worstRow(data, object)),
    };
    for (const table of section.querySelectorAll("table")) tables.fill(table, rows[table.dataset.part]);
    section.querySelector("[data-part='pictures']").replaceChildren(...pictures(data, worst, [second, first]));
  }

  for (const section of document.querySelectorAll("[data-compare]")) {
    let data = null;
    const update = () => show(section, (data ??= read(section.dataset.compare)));
    section.querySelector(".pair").hidden = false;
    for (const select of section.querySelectorAll("[data-which]")) select.addEventListener("change", update);
    section.querySelector(".worst").addEventListener("toggle", update, { once: true }); // its pictures
  }
})();
