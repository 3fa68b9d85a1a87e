// The page works without this script. It shows the run live and draws the chart.
"use strict";

const INTERVAL = 400; // milliseconds between two looks at the progress
const HEIGHT = 300;
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
let contenders = [];

function write(id, text) {
  const element = byId(id);
  // Only what has changed: a live region would say it again.
  if (element && element.textContent !== text) element.textContent = text;
}

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// About `count` round numbers from 0 to `most`.
function ticks(most, count) {
  const rough = most / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const found = [];
  for (let value = 0; value <= most + step / 1000; value += step) found.push(value);
  return found;
}

function draw() {
  const place = byId("chart");
  const drawn = contenders.filter(({ points }) => points.length);
  if (!place || !drawn.length) return;
  const width = Math.max(place.clientWidth, 260);
  const left = 58, right = 14, top = 10, bottom = 44;
  const seconds = Math.max(1, ...drawn.map(({ points }) => points.at(-1)[0]));
  const most = Math.max(10, ...drawn.map(({ points }) => points.at(-1)[1]));
  const [, step] = ticks(most, 4);
  const rows = Math.ceil(most / step) * step;
  const x = (value) => left + (value / seconds) * (width - left - right);
  const y = (value) => HEIGHT - bottom - (value / rows) * (HEIGHT - top - bottom);
  const svg = element("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-labelledby": "chart-title chart-text" });
  svg.append(element("desc", { id: "chart-text" }, inWords(drawn)));
  for (const value of ticks(rows, 4)) {
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: y(value), y2: y(value) }));
    svg.append(element("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, number.format(value)));
  }
  for (const value of ticks(seconds, width < 480 ? 4 : 8)) {
    const text = number.format(Number(value.toFixed(2)));
    svg.append(element("text", { x: x(value), y: HEIGHT - bottom + 18, "text-anchor": "middle" }, text));
  }
  svg.append(element("text", { x: (left + width - right) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "seconds"));
  for (const { key, points } of drawn) {
    const line = points.map(([second, row]) => `${x(second).toFixed(1)},${y(row).toFixed(1)}`);
    const [second, row] = points.at(-1);
    svg.append(element("polyline", { class: `series ${key}`, points: [`${x(0)},${y(0)}`, ...line].join(" ") }));
    svg.append(element("circle", { class: `end ${key}`, cx: x(second), cy: y(row), r: 4.5 }));
  }
  place.replaceChildren(svg);
  drawTable(drawn, seconds);
}

function inWords(drawn) {
  const parts = drawn.map(({ name, points }) => {
    const [second, row] = points.at(-1);
    return `${name}: ${number.format(row)} rows in ${second.toFixed(1)} seconds`;
  });
  return `${parts.join("; ")}.`;
}

// The rows that were written by this second, between two points of the line.
function at(points, second) {
  let before = [0, 0];
  for (const point of points) {
    if (point[0] >= second) {
      const part = (second - before[0]) / (point[0] - before[0] || 1);
      return number.format(Math.round(before[1] + part * (point[1] - before[1])));
    }
    before = point;
  }
  return "-"; // it had ended before, or has not come so far
}

function drawTable(drawn, seconds) {
  const details = byId("chart-data");
  const table = document.createElement("table");
  const fill = (row, tag, texts) => texts.forEach((text, index) => {
    const cell = document.createElement(tag === "th" || !index ? "th" : "td");
    cell.scope = tag === "th" ? "col" : "row";
    if (cell.tagName === "TD") cell.removeAttribute("scope");
    cell.textContent = text;
    row.append(cell);
  });
  fill(table.createTHead().insertRow(), "th", ["seconds", ...drawn.map(({ name }) => name)]);
  const body = table.createTBody();
  for (const second of ticks(seconds, 8)) {
    if (second) fill(body.insertRow(), "td", [number.format(Number(second.toFixed(2))), ...drawn.map(({ points }) => at(points, second))]);
  }
  details.querySelector("table").replaceWith(table);
  details.hidden = false;
}

function show(run) {
  write("status", run.status);
  write("state", run.status);
  contenders = run.contenders;
  for (const { key, imported, text, rate } of contenders) {
    write(`rate-${key}`, rate);
    write(`text-${key}`, text);
    if (byId(`bar-${key}`)) byId(`bar-${key}`).value = imported;
  }
  for (const { cells } of run.acts.flatMap(({ table }) => table)) {
    for (const { id, text } of cells) write(id, text);
  }
  draw();
}

// Show the page as the server has it now: the parts of a run come and go.
async function replace() {
  const response = await fetch(location.pathname, { cache: "no-store" });
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const focused = byId("run").contains(document.activeElement) && document.activeElement.id;
  byId("run").replaceWith(page.getElementById("run"));
  byId("setup").replaceWith(page.getElementById("setup"));
  write("status", page.getElementById("status").textContent);
  // The control that had the focus, if it is still there.
  if (focused !== false) (byId(focused) ?? byId("run-title")).focus({ preventScroll: true });
  start();
}

async function poll() {
  const address = byId("run").dataset.progress;
  if (!address) return;
  try {
    const response = await fetch(address, { cache: "no-store" });
    const run = await response.json();
    const isNew = (run.acts ?? []).some(({ table }) => table.length && !byId(table[0].cells[0].id));
    if (!run.is_going_on || isNew) return await replace();
    show(run);
  } catch {
    write("status", "The server does not answer. Is it still running?");
    write("state", "The server does not answer. Is it still running?");
  }
  setTimeout(poll, INTERVAL);
}

function addPresets() {
  const place = byId("presets");
  for (const value of place ? place.dataset.presets.split(" ") : []) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "preset";
    button.textContent = number.format(value);
    button.setAttribute("aria-label", `${number.format(value)} cities`);
    button.addEventListener("click", () => { byId("cities").value = value; });
    place.append(button);
  }
}

function start() {
  const data = byId("contenders");
  contenders = (data && JSON.parse(data.textContent)) || [];
  draw();
  addPresets();
  poll();
}

addEventListener("resize", draw);
start();
