"use strict";
// Tables sort by a click on a column's head; a long one has a field that keeps the rows which contain a text.
const tables = (() => {
  const MOST_WITHOUT_FILTER = 10;
  const FACTORS = {
    B: 1, KiB: 2 ** 10, MiB: 2 ** 20, GiB: 2 ** 30, kB: 1e3, KB: 1e3, MB: 1e6, GB: 1e9,
    ns: 1e-9, "µs": 1e-6, us: 1e-6, ms: 1e-3, s: 1, min: 60, h: 3600,
  };
  const NUMBER = /^[<>~≈]?\s*([+\-−]?(?:\d[\d,]*(?:\.\d+)?|\.\d+)(?:e[+-]?\d+)?)(?:\s*±\s*[\d.,]+)?\s*([a-zµ]*)/i;
  const words = new Intl.Collator("en", { numeric: true, sensitivity: "base" });
  const states = new Map(); // table -> {rows, order, column, down}

  // What a cell with a number sorts by: "1,234", "−1.2 ± 0.3", "12 %", "3 of 45", "2 MiB"; null for no number.
  function number(text) {
    const match = NUMBER.exec(text.trim());
    if (!match) return null;
    return Number(match[1].replaceAll(",", "").replace("−", "-")) * (FACTORS[match[2]] ?? 1);
  }

  function keyOf(row, column, isNumber) {
    const text = row.cells[column].textContent.trim();
    return isNumber ? number(text) : text || null;
  }

  // Empty cells, and in columns of numbers what is none, come last in either direction; equal ones keep their order.
  function sorted(rows, column, isNumber, down) {
    const keyed = rows.map((row) => [keyOf(row, column, isNumber), row]);
    const compare = isNumber ? (a, b) => a - b : words.compare;
    keyed.sort(([a], [b]) => {
      if (a === null || b === null) return (a === null) - (b === null);
      return down ? compare(b, a) : compare(a, b);
    });
    return keyed.map(([, row]) => row);
  }

  function show(table) {
    const { rows, column, down, field, told } = states.get(table);
    const heads = [...table.tHead.rows[0].cells];
    const isNumber = column !== null && heads[column].classList.contains("number");
    table.tBodies[0].append(...(column === null ? rows : sorted(rows, column, isNumber, down)));
    heads.forEach((head, index) => {
      head.setAttribute("aria-sort", index !== column ? "none" : down ? "descending" : "ascending");
    });
    const wanted = field.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of rows) {
      const text = [...row.cells].map((cell) => cell.textContent).join(" ").toLowerCase();
      row.hidden = !wanted.every((word) => text.includes(word));
    }
    told.textContent = wanted.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} rows` : "";
  }

  function sortBy(table, column, down) {
    Object.assign(states.get(table), { column, down });
    states.get(table).select.value = column === null ? "" : `${column} ${Number(down)}`;
    show(table);
  }

  // A column's first click sorts it upwards, the second one downwards, the third one brings the first order back.
  function click(table, column) {
    const state = states.get(table);
    if (state.column !== column) sortBy(table, column, false);
    else sortBy(table, state.down ? null : column, !state.down);
  }

  // Where rows are cards and heads out of sight.
  function sortSelect(table, heads) {
    const select = document.createElement("select");
    select.append(new Option("as listed", ""));
    heads.forEach((head, column) => {
      const name = head.textContent.trim() || "remark";
      select.append(new Option(`${name} ↑`, `${column} 0`), new Option(`${name} ↓`, `${column} 1`));
    });
    select.addEventListener("change", () => {
      const [column, down] = select.value.split(" ");
      sortBy(table, select.value ? Number(column) : null, down === "1");
    });
    return select;
  }

  function labelled(text, className, control) {
    const label = Object.assign(document.createElement("label"), { className });
    label.append(`${text} `, control);
    return label;
  }

  function count(table) {
    const state = states.get(table);
    state.rows = [...table.tBodies[0].rows];
    state.filter.hidden = state.rows.length <= MOST_WITHOUT_FILTER;
    if (state.filter.hidden) state.field.value = "";
    state.sorting.hidden = state.rows.length < 2;
  }

  function enhance(table) {
    const heads = [...table.tHead.rows[0].cells];
    const select = sortSelect(table, heads);
    heads.forEach((head, column) => {
      const button = Object.assign(document.createElement("button"), { type: "button", className: "sort" });
      button.append(...head.childNodes);
      if (!button.textContent.trim()) button.setAttribute("aria-label", "sort by the remark");
      button.addEventListener("click", () => click(table, column));
      head.append(button);
    });
    const field = Object.assign(document.createElement("input"), { type: "search" });
    field.addEventListener("input", () => show(table));
    const told = document.createElement("span");
    told.setAttribute("role", "status");
    const filter = labelled("Filter", "filter", field);
    const sorting = labelled("Sort by", "sorting", select);
    const tools = Object.assign(document.createElement("div"), { className: "tools" });
    tools.append(filter, sorting, told);
    (table.closest(".wide") || table).before(tools);
    states.set(table, { rows: [], column: null, down: false, field, told, filter, sorting, select });
    count(table);
    show(table);
  }

  // Put other rows into a table: lists of texts, the first of which names the row.
  function fill(table, rows) {
    const heads = [...table.tHead.rows[0].cells];
    const made = rows.map((texts) => {
      const row = document.createElement("tr");
      texts.forEach((text, column) => {
        const cell = document.createElement(column ? "td" : "th");
        cell.textContent = text;
        if (!column) cell.scope = "row";
        cell.dataset.label = heads[column].textContent.trim();
        if (column && heads[column].classList.contains("number")) cell.className = "number";
        row.append(cell);
      });
      return row;
    });
    table.tBodies[0].replaceChildren(...made);
    count(table);
    show(table);
  }

  document.querySelectorAll("main table").forEach(enhance);
  return { fill, number };
})();
