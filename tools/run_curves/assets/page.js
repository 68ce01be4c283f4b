// Charts of runs' numbers by epoch; data as from write_page in tools/run_curves/page.py.

const { runs, charts } = data;
const hidden = new Set();
let smoothing = 0, logarithmic = true;
const tooltip = at("#tooltip");
const lastEpoch = Math.max(1, ...runs.map((run) => run.last));
const shown = (value) => String(Number(value.toPrecision(4)));
// Of an axis, whose margin has room for seven digits.
const ticked = (value) =>
  (shown(value).length > 7 ? Number(shown(value)).toExponential() : shown(value));

// An exponential moving average, corrected for its bias towards 0 at the start.
function smooth(points) {
  let sum = 0, weight = 0;
  return points.map(([epoch, value]) => {
    sum = smoothing * sum + (1 - smoothing) * value;
    weight = smoothing * weight + (1 - smoothing);
    return [epoch, sum / weight];
  });
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const m of [1, 2, 5]) ticks.push(m * 10 ** power);
  const inside = ticks.filter((tick) => tick >= low && tick <= high);
  if (inside.length < 3) return evenTicks(low, high, 4).filter((tick) => tick > 0);
  if (inside.length < 8) return inside;
  const powers = inside.filter((tick) => Math.abs(Math.log10(tick) % 1) < 1e-6);
  return powers.filter((_, i) => i % Math.ceil(powers.length / 7) === 0);
}

const epochAxis = {
  label: "epoch",
  ticks: [1, ...evenTicks(1, lastEpoch, 6).filter((tick) => Number.isInteger(tick) && tick > 1)],
  text: shown,
  share: (epoch) => (lastEpoch > 1 ? (epoch - 1) / (lastEpoch - 1) : 0),
};

function valueAxis(chart, curves) {
  let low = Infinity, high = -Infinity;
  for (const { raw, band } of curves)
    for (const [, ...values] of [...raw, ...band]) {
      low = Math.min(low, ...values);
      high = Math.max(high, ...values);
    }
  const log = logarithmic && chart.logarithmic && low > 0;
  const [scale, inverse] = log ? [Math.log, Math.exp] : [(value) => value, (value) => value];
  const pad = (scale(high) - scale(low)) * 0.06 || Math.abs(scale(high)) * 0.05 || 0.05;
  const bottom = scale(low) - pad, top = scale(high) + pad;
  return {
    ticks: log ? logTicks(inverse(bottom), inverse(top)) : evenTicks(bottom, top, 5),
    text: ticked,
    share: (value) => (scale(value) - bottom) / (top - bottom),
  };
}

// The curves to draw: those of runs that are not hidden, smoothed.
function curvesOf(chart) {
  const curves = [];
  for (const run of runs)
    chart.curves.forEach(({ number, whose }, place) => {
      const raw = run.curves[number];
      if (raw && !hidden.has(run))
        curves.push({ run, whose, dashed: place > 0, raw, band: run.bands[number] ?? [],
          points: chart.smoothed ? smooth(raw) : raw });
    });
  return curves;
}

// Draw a chart, and return what its tooltips need.
function draw(chart, plot) {
  plot.replaceChildren();
  const curves = curvesOf(chart);
  if (!curves.length) {
    plot.append(svg("text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" },
      "no run is shown"));
    return { curves };
  }
  const { x, y } = drawAxes(plot, epochAxis, valueAxis(chart, curves));
  const path = (points) => points.map(([epoch, value], i) =>
    `${i ? "L" : "M"}${x(epoch).toFixed(2)} ${y(value).toFixed(2)}`).join("");
  for (const { run, raw, band } of curves) {
    // Of the values themselves: where the curve is smoothed, too.
    const edge = [...band.map(([epoch, low]) => [epoch, low]),
      ...band.map(([epoch, , high]) => [epoch, high]).reverse()];
    if (raw.length && edge.length)
      plot.append(svg("path", { class: "band", fill: run.colour, d: `${path(edge)}Z` }));
  }
  for (const { run, dashed, raw, points } of curves) {
    const style = { stroke: run.colour, "stroke-dasharray": dashed ? "6 4" : "none" };
    if (points !== raw && smoothing)
      plot.append(svg("path", { ...style, class: "curve faint", d: path(raw) }));
    plot.append(svg("path", { ...style, class: "curve", d: path(points) }));
    if (points.length <= 40)
      plot.append(...points.map(([epoch, value]) =>
        svg("circle", { cx: x(epoch), cy: y(value), r: 2.4, fill: run.colour })));
  }
  return { curves, x, y };
}

function showTooltip(chart, { curves, x, y }, plot, event) {
  hideTooltip(plot);
  const epochs = [...new Set(curves.flatMap((curve) => curve.points.map(([epoch]) => epoch)))];
  if (!epochs.length) return;
  const box = plot.getBoundingClientRect();
  const pointer = (event.clientX - box.left) / box.width * WIDTH;
  const distance = (epoch) => Math.abs(x(epoch) - pointer);
  const epoch = epochs.reduce((a, b) => (distance(b) < distance(a) ? b : a));
  const cross = svg("g", { class: "hover", "pointer-events": "none" },
    svg("line", { class: "cross", x1: x(epoch), x2: x(epoch), y1: TOP, y2: HEIGHT - BOTTOM }));
  const table = html("table");
  for (const { run, whose, points } of curves) {
    const point = points.find(([other]) => other === epoch);
    if (!point) continue;
    cross.append(svg("circle", { cx: x(epoch), cy: y(point[1]), r: 4, fill: run.colour }));
    table.append(html("tr", {}, html("td", {}, swatch(run.colour)), html("td", {}, run.name),
      html("td", {}, chart.curves.length > 1 ? whose : ""), html("td", {}, shown(point[1]))));
  }
  plot.append(cross);
  tooltip.replaceChildren(html("b", {}, `epoch ${epoch}`), table);
  tooltip.hidden = false;
  // Beside the pointer, and within the window.
  const { offsetWidth: width, offsetHeight: height } = tooltip;
  const right = event.clientX + 16 + width > innerWidth;
  const left = right ? event.clientX - width - 16 : event.clientX + 16;
  tooltip.style.left = `${Math.max(0, left)}px`;
  tooltip.style.top = `${Math.max(0, Math.min(event.clientY + 12, innerHeight - height))}px`;
}

function hideTooltip(plot) {
  tooltip.hidden = true;
  plot.querySelector(".hover")?.remove();
}

const redraws = charts.map((chart) => {
  const plot = emptyPlot(chart.title);
  at("#charts").append(html("section", { class: "chart" }, html("h3", {}, chart.title), plot));
  let drawn = draw(chart, plot);
  plot.addEventListener("mousemove", (event) => showTooltip(chart, drawn, plot, event));
  plot.addEventListener("mouseleave", () => hideTooltip(plot));
  return () => { drawn = draw(chart, plot); };
});
const redraw = () => redraws.forEach((one) => one());

// The best and the last value of each run; with several runs the best of all is marked.
function bestTable() {
  const rows = [
    html("tr", {}, html("th"), ...runs.map((run) =>
      html("th", { class: "first", colspan: 2 }, swatch(run.colour), run.name))),
    html("tr", {}, html("th", {}, "epochs"), ...runs.map((run) =>
      html("td", { class: "first", colspan: 2 }, run.epochs))),
    html("tr", {}, html("th"), ...runs.flatMap(() =>
      [html("th", { class: "first" }, "best"), html("th", {}, "last")])),
  ];
  for (const chart of charts.filter((chart) => chart.better)) {
    const { number, whose } = chart.curves.at(-1), sign = chart.better === "highest" ? 1 : -1;
    const best = runs.map((run) =>
      run.curves[number]?.reduce((a, b) => (sign * b[1] > sign * a[1] ? b : a)));
    const values = best.filter(Boolean).map((point) => sign * point[1]);
    if (!values.length) continue;
    const cells = (point, i) => (!point ? [html("td", { class: "first" }), html("td")] : [
      html("td", { class: data.same_data && values.length > 1 && sign * point[1] === Math.max(...values)
        ? "first top" : "first" },
      `${point[1].toPrecision(4)} `, html("small", {}, `epoch ${point[0]}`)),
      html("td", {}, runs[i].curves[number].at(-1)[1].toPrecision(4))]);
    const title = chart.curves.length > 1 ? `${chart.title}, ${whose}` : chart.title;
    rows.push(html("tr", {}, html("th", {}, title), ...best.flatMap(cells)));
  }
  return html("table", {}, ...rows);
}

// Options, and what else may explain a difference: a row for each, a column for each run.
function optionsTable() {
  const head = html("tr", {}, html("th"),
    ...runs.map((run) => html("th", { class: "first" }, swatch(run.colour), run.name)));
  return html("table", {}, head, ...data.differences.map(([name, values]) => html("tr", {},
    html("th", {}, name), ...values.map((value) => html("td", { class: "first" }, value)))));
}

at("#best").append(bestTable());
at("#other-data").hidden = data.same_data;
at("#options").hidden = !data.differences.length;
at("#options .scroll").append(optionsTable());
for (const run of runs) {
  const entry = html("button", { type: "button", "aria-pressed": "true", onclick: () => {
    if (!hidden.delete(run)) hidden.add(run);
    entry.setAttribute("aria-pressed", String(!hidden.has(run)));
    redraw();
  } }, swatch(run.colour), html("span", {}, run.name));
  at("#legend").append(entry);
}
at("#smoothing").addEventListener("input", (event) => {
  smoothing = Number(event.target.value);
  at("#smoothing-value").textContent = smoothing;
  redraw();
});
at("#log").addEventListener("change", (event) => {
  logarithmic = event.target.checked;
  redraw();
});
