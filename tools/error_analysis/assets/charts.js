"use strict";
// Elements, and the two charts. Texts become text nodes: nothing in the data can be markup.

const SVG = "http://www.w3.org/2000/svg";

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

const html = (tag, attributes = {}, ...children) =>
  filled(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) =>
  filled(document.createElementNS(SVG, tag), attributes, children);

const WIDTH = 520, HEIGHT = 320, LEFT = 58, RIGHT = 12, TOP = 12, BOTTOM = 46;

// A plot of scores from 0 to 1. height(value) -> share of the vertical axis.
function frame(label, ticks, height) {
  const x = (score) => LEFT + score * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - height(value) * (HEIGHT - TOP - BOTTOM);
  const plot = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  const write = (text, place) =>
    plot.append(svg("text", { "font-size": 13, fill: "#5d6b7c", ...place }, text));
  for (const tick of ticks) {
    plot.append(svg("line", { x1: x(0), x2: x(1), y1: y(tick), y2: y(tick), stroke: "#e3e8ee" }));
    write(tick.toLocaleString("en"), { x: LEFT - 8, y: y(tick) + 4, "text-anchor": "end" });
  }
  for (let i = 0; i <= 10; i += 2)
    write((i / 10).toFixed(1), { x: x(i / 10), y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" });
  write("score", { x: x(0.5), y: HEIGHT - 8, "text-anchor": "middle" });
  write(label, { transform: `translate(14 ${y(ticks[0]) - (y(ticks[0]) - TOP) / 2}) rotate(-90)`,
    "text-anchor": "middle" });
  return { plot, x, y };
}

function reliability(calibration) {
  const { plot, x, y } = frame("share that is right", [0, 0.25, 0.5, 0.75, 1], (share) => share);
  const { hits, misses, scores } = calibration;
  hits.forEach((right, bin) => {
    const count = right + misses[bin];
    if (!count) return;
    const share = right / count, mean = scores[bin] / count;
    const gap = Math.abs(share - mean), low = Math.min(share, mean);
    const place = { x: x(bin / hits.length) + 2, width: x(1 / hits.length) - x(0) - 4 };
    plot.append(
      svg("rect", { ...place, y: y(share), height: y(0) - y(share), fill: "#4c86c6" },
        svg("title", {}, `${count} detections, mean score ${mean.toFixed(3)}, ` +
          `${right} right: ${share.toFixed(3)}`)),
      svg("rect", { ...place, y: y(low + gap), height: y(0) - y(gap), fill: "#d62728",
        "fill-opacity": 0.25, stroke: "#d62728", "pointer-events": "none" }));
  });
  plot.append(svg("line", { x1: x(0), y1: y(0), x2: x(1), y2: y(1), stroke: "#1d2530",
    "stroke-dasharray": "5 4" }));
  return plot;
}

function histogram({ hits, misses }, colours) {
  const top = Math.max(10, ...hits, ...misses);
  const powers = Math.ceil(Math.log10(top));
  // A count of 1 is seen, too: it stands a little above the axis.
  const height = (count) => (count ? (Math.log10(count) + 0.3) / (powers + 0.3) : 0);
  const ticks = Array.from({ length: powers + 1 }, (_, power) => 10 ** power);
  const { plot, x, y } = frame("detections", ticks, height);
  const half = (x(1 / hits.length) - x(0)) / 2;
  [[hits, "right"], [misses, "false"]].forEach(([counts, name], which) =>
    counts.forEach((count, bin) => plot.append(
      svg("rect", { x: x(bin / counts.length) + which * half + 1 - which, width: half - 1,
        y: y(count), height: y(0) - y(count), fill: colours[which] },
        svg("title", {}, `${count} ${name}`)))));
  ["right", "false"].forEach((name, which) => plot.append(
    svg("rect", { x: WIDTH - 150 + 70 * which, y: TOP, width: 12, height: 12,
      fill: colours[which] }),
    svg("text", { x: WIDTH - 133 + 70 * which, y: TOP + 11, "font-size": 13 }, name)));
  return plot;
}
