"use strict";
// Sorting of every table; parallel coordinates of the trials, linked with their table.
const number = (text) => (text === "" ? NaN : Number(text === "inf" ? Infinity : text === "-inf" ? -Infinity : text));
const compare = (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === "");
  const x = number(a), y = number(b);
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, undefined, { numeric: true }) : x === y ? 0 : x - y;
};
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, place) => head.firstElementChild.addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach((other) => other.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.cells[place].dataset.key;
    const ordered = [...table.tBodies[0].rows].sort((a, b) => {
      const empty = key(a) === "" || key(b) === "";
      return compare(key(a), key(b)) * (down && !empty ? -1 : 1);
    });
    table.tBodies[0].append(...ordered);
  }));
}

const find = (id) => document.getElementById(id);
const table = find("all-trials"), words = find("words"), outcome = find("outcome"), canvas = find("parallel"), told = find("told");
const buttons = [...document.querySelectorAll("#solver-buttons button")];
const colours = Object.fromEntries(buttons.map((button) => [button.dataset.solver, button.dataset.colour]));
const axes = [...table.tHead.rows[0].cells].flatMap((head, place) =>
  head.dataset.axis ? [{ place, name: head.textContent, log: head.dataset.axis === "log", range: null }] : []);
const trials = [...table.tBodies[0].rows].map((row) => ({
  row, shown: true, text: row.textContent.toLowerCase(), solver: row.dataset.solver,
  values: axes.map((axis) => {
    const value = number(row.cells[axis.place].dataset.key);
    const placed = axis.log ? Math.log10(value) : value;
    return Number.isFinite(placed) ? placed : null;
  }),
}));
axes.forEach((axis, place) => {
  const values = trials.map((trial) => trial.values[place]).filter((value) => value !== null);
  axis.low = values.reduce((a, b) => Math.min(a, b), Infinity);
  axis.high = values.reduce((a, b) => Math.max(a, b), -Infinity);
});

const TOP = 46, BELOW = 34, SIDE = 58, LEAST = 92;
let width = 0, height = 0, pointed = null, pulled = null;
const across = (place) => SIDE + (axes.length < 2 ? 0 : place * (width - 2 * SIDE) / (axes.length - 1));
const bottom = () => height - BELOW;
// A missing value has a place of its own below the axis.
const down = (axis, value) => (value === null ? bottom() + 16
  : bottom() - (bottom() - TOP) * (axis.high > axis.low ? (value - axis.low) / (axis.high - axis.low) : 0.5));
const written = (axis, placed) => {
  const value = axis.log ? 10 ** placed : placed, far = value && (Math.abs(value) >= 1e5 || Math.abs(value) < 1e-2);
  return far ? value.toExponential(2) : String(Number(value.toPrecision(3)));
};

function draw() {
  const style = getComputedStyle(document.documentElement), ink = style.getPropertyValue("--ink"), rule = style.getPropertyValue("--rule");
  const density = window.devicePixelRatio || 1;
  width = Math.max(canvas.parentElement.clientWidth, axes.length * LEAST);
  height = 320;
  canvas.style.width = `${width}px`;
  canvas.style.height = `${height}px`;
  [canvas.width, canvas.height] = [width * density, height * density];
  const pen = canvas.getContext("2d");
  pen.scale(density, density);
  const line = (trial, colour, thick, alpha) => {
    pen.globalAlpha = alpha;
    pen.strokeStyle = colour;
    pen.lineWidth = thick;
    pen.beginPath();
    axes.forEach((axis, place) => pen.lineTo(across(place), down(axis, trial.values[place])));
    pen.stroke();
  };
  const colour = (trial) => (colours[trial.solver] === "#000000" ? ink : colours[trial.solver]);
  const shown = trials.filter((trial) => trial.shown);
  for (const trial of trials) if (!trial.shown) line(trial, rule, 0.6, 0.6);
  for (const trial of shown) line(trial, colour(trial), 1, shown.length > 300 ? 0.3 : 0.6);
  if (pointed) line(pointed, colour(pointed), 3.5, 1);
  pen.globalAlpha = 1;
  pen.font = "12px system-ui, sans-serif";
  pen.textAlign = "center";
  axes.forEach((axis, place) => {
    const x = across(place);
    pen.fillStyle = pen.strokeStyle = ink;
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x, TOP);
    pen.lineTo(x, bottom());
    pen.stroke();
    const room = axes.length < 2 ? width : (width - 2 * SIDE) / (axes.length - 1) - 6;
    pen.fillText(axis.name, x, 16, room);
    pen.fillText(written(axis, axis.high), x, TOP - 8, room);
    pen.fillText(written(axis, axis.low), x, bottom() + 12, room);
    if (axis.range) {
      const [high, low] = axis.range.map((value) => down(axis, value)).sort((a, b) => a - b);
      pen.globalAlpha = 0.35;
      pen.fillRect(x - 8, high, 16, Math.max(low - high, 2));
      pen.globalAlpha = 1;
    }
  });
}

function filter() {
  const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
  const hidden = new Set(buttons.filter((b) => b.getAttribute("aria-pressed") === "false").map((b) => b.dataset.solver));
  let count = 0;
  for (const trial of trials) {
    const inside = axes.every((axis, place) => !axis.range || (trial.values[place] !== null
      && trial.values[place] >= Math.min(...axis.range) && trial.values[place] <= Math.max(...axis.range)));
    trial.shown = inside && !hidden.has(trial.solver) && wanted.every((word) => trial.text.includes(word))
      && (!outcome.value || trial.row.dataset.outcome === outcome.value);
    trial.row.hidden = !trial.shown;
    count += trial.shown;
  }
  find("shown").textContent = `${count} of ${trials.length} trials`;
  draw();
}

function clear() {
  words.value = outcome.value = "";
  axes.forEach((axis) => { axis.range = null; });
  buttons.forEach((button) => button.setAttribute("aria-pressed", "true"));
  filter();
}

function point(trial) {
  if (trial === pointed) return;
  pointed?.row.classList.remove("pointed");
  pointed = trial;
  pointed?.row.classList.add("pointed");
  told.textContent = trial ? [trial.row.cells[0].textContent, trial.row.dataset.outcome,
    ...axes.map((axis) => `${axis.name} ${trial.row.cells[axis.place].textContent}`)].join(" · ") : told.dataset.empty;
  draw();
}

const at = (event) => {
  const box = canvas.getBoundingClientRect();
  return [event.clientX - box.left, event.clientY - box.top];
};
const value = (axis, y) => axis.low + (axis.high - axis.low) * (bottom() - Math.min(Math.max(y, TOP), bottom())) / (bottom() - TOP);
const near = (x) => axes.find((_, place) => Math.abs(across(place) - x) < 14);

function nearest(x, y) {
  const step = axes.length < 2 ? 1 : across(1) - across(0);
  const left = Math.max(0, Math.min(axes.length - 2, Math.floor((x - SIDE) / step)));
  const right = Math.min(left + 1, axes.length - 1), share = Math.min(Math.max((x - across(left)) / step, 0), 1);
  let best = null, least = 9;
  for (const trial of trials) {
    if (!trial.shown) continue;
    const [a, b] = [left, right].map((place) => down(axes[place], trial.values[place]));
    const gap = Math.abs(a + (b - a) * share - y);
    if (gap < least) [best, least] = [trial, gap];
  }
  return best;
}

canvas.addEventListener("pointerdown", (event) => {
  const [x, y] = at(event), axis = near(x);
  if (axis) {
    pulled = { axis, from: y };
    canvas.setPointerCapture(event.pointerId);
  } else if (pointed) location.hash = pointed.row.id;
});
canvas.addEventListener("pointermove", (event) => {
  const [x, y] = at(event);
  canvas.style.cursor = near(x) ? "ns-resize" : "default";
  if (!pulled) return point(nearest(x, y));
  if (Math.abs(y - pulled.from) > 3) pulled.axis.range = [value(pulled.axis, pulled.from), value(pulled.axis, y)];
  draw();
});
canvas.addEventListener("pointerup", (event) => {
  if (!pulled) return;
  if (Math.abs(at(event)[1] - pulled.from) <= 3) pulled.axis.range = null;
  pulled = null;
  filter();
});
canvas.addEventListener("pointerleave", () => { if (!pulled) point(null); });
canvas.addEventListener("pointercancel", () => { pulled = null; });
table.tBodies[0].addEventListener("pointerover", (event) => point(trials.find((trial) => trial.row === event.target.closest("tr"))));
table.addEventListener("pointerleave", () => point(null));
for (const button of buttons) {
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", button.getAttribute("aria-pressed") === "true" ? "false" : "true");
    filter();
  });
}
words.addEventListener("input", filter);
outcome.addEventListener("change", filter);
find("clear").addEventListener("click", clear);

const measure = () => {
  draw();
  for (const box of document.querySelectorAll(".scroll")) {
    const moves = box.closest(".tall") || box;
    box.classList.toggle("wide", moves.scrollWidth > moves.clientWidth);
  }
};
addEventListener("resize", measure);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
const arrive = () => {
  const row = find(decodeURIComponent(location.hash.slice(1)));
  if (row && row.hidden) { clear(); row.scrollIntoView(); }
};
addEventListener("hashchange", arrive);
measure();
filter();
