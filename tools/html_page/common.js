"use strict";
// The page's data, elements and plots. Texts become text nodes: nothing in the data can be markup.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (selector) => document.querySelector(selector);

function withContent(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const html = (tag, attributes = {}, ...children) =>
  withContent(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  withContent(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
const swatch = (colour) => html("span", { class: "swatch", style: `background:${colour}` });

// Fill a table that a click on a heading sorts. Rows are lists of values with a name first;
// cell(value, column) returns a td; values for which none(value) is true come last.
function sortableTable(table, columns, rows, cell, none) {
  const body = html("tbody");
  const lines = rows.map((values) => [values, html("tr", {}, ...values.map(cell))]);
  const heads = columns.map((name, column) => html("th", { scope: "col" },
    html("button", { type: "button", onclick: () => sort(column) }, name)));

  function sort(column) {
    // Numbers start with the largest, names with the first of the alphabet.
    const before = heads[column].getAttribute("aria-sort");
    const down = before ? before === "ascending" : typeof rows[0]?.[column] !== "string";
    heads.forEach((head) => head.removeAttribute("aria-sort"));
    heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
    lines.sort(([{ [column]: one }], [{ [column]: other }]) => {
      if (none(one) || none(other)) return none(one) - none(other);
      const order = typeof one === "string" ? one.localeCompare(other) : one - other;
      return down ? -order : order;
    });
    body.append(...lines.map(([, line]) => line));
  }

  body.append(...lines.map(([, line]) => line));
  table.append(html("thead", {}, html("tr", {}, ...heads)), body);
}

// ---- plots: all have the same size and margins ----

const WIDTH = 400, HEIGHT = 230, LEFT = 52, RIGHT = 10, TOP = 8, BOTTOM = 32;

const emptyPlot = (label) => svg("svg", { class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
  role: "img", "aria-label": label });

// Draw the axes of a plot. An axis has a label (x alone), ticks, text(tick), and share(value):
// where along the axis a value lies, from 0 to 1. Returns functions from values to coordinates.
function drawAxes(plot, xAxis, yAxis) {
  const x = (value) => LEFT + xAxis.share(value) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - yAxis.share(value) * (HEIGHT - TOP - BOTTOM);
  for (const tick of yAxis.ticks)
    plot.append(
      svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }),
      svg("text", { class: "tick", x: LEFT - 6, y: y(tick) + 4, "text-anchor": "end" },
        yAxis.text(tick)));
  for (const tick of xAxis.ticks) {
    const text = xAxis.text(tick), half = 3.5 * text.length;  // of a text of this font's digits
    plot.append(svg("text", { x: Math.min(x(tick), WIDTH - half), y: HEIGHT - 17,
      "text-anchor": "middle" }, text));
  }
  plot.append(svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 4, "text-anchor": "end" }, xAxis.label));
  return { x, y };
}

// Multiples of 1, 2, 5, 10, ... between two values, about `count` of them.
function evenTicks(low, high, count) {
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= rough * 0.7);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++)
    ticks.push(i * step);
  return ticks;
}
