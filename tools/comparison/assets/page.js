// A study's table, differences and curves; data as from page_data in tools/comparison/report.py.

const colourOf = Object.fromEntries(data.configurations.map(({ name, colour }) => [name, colour]));
const shown = (value) => String(Number(value.toPrecision(4)));

// An axis from the lowest to the highest of the values, with a little room at both ends.
function axisOf(values, count, label = "") {
  const low = Math.min(...values), high = Math.max(...values);
  const pad = (high - low) * 0.06 || Math.abs(high) * 0.05 || 0.05;
  const start = low - pad, end = high + pad;
  return { label, text: shown, ticks: evenTicks(start, end, count),
    share: (value) => (value - start) / (end - start) };
}

const KINDS = { better: "better", shown: "better", worse: "worse", contradicted: "worse" };

function showRows(table, [heads, ...rows]) {
  const mark = (cell, column) => (column || !colourOf[cell] ? [] : [swatch(colourOf[cell])]);
  table.append(
    html("thead", {}, html("tr", {}, ...heads.map((head) => html("th", { scope: "col" }, head)))),
    html("tbody", {}, ...rows.map((row) => html("tr", {}, ...row.map((cell, column) =>
      html("td", { class: column ? KINDS[cell] : undefined }, ...mark(cell, column), cell))))));
}

function showClaims() {
  if (!data.claims.length) return;
  const table = html("table", {});
  at("#claims").append(html("h2", {}, "Claims"), html("div", { class: "scroll" }, table));
  showRows(table, data.claims);
}

// One line for each configuration but the baseline, with zero and the intervals.
function showDifferences() {
  const rows = data.differences.filter((row) => row.mean !== null);
  if (!rows.length) {
    at("#differences").append(html("p", { class: "note" }, "No two finished runs share a seed."));
    return;
  }
  const width = 820, left = 210, right = 90, step = 34, height = rows.length * step + 40;
  const values = rows.flatMap((row) => [...row.seeds.map(([, value]) => value), row.mean,
    row.low ?? row.mean, row.high ?? row.mean]);
  const axis = axisOf([0, ...values], 6);
  const x = (value) => left + axis.share(value) * (width - left - right);
  const bottom = height - 30;
  const plot = svg("svg", { class: "plot", viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": `differences to ${data.baseline}` });
  for (const tick of axis.ticks)
    plot.append(svg("line", { class: "grid", x1: x(tick), x2: x(tick), y1: 4, y2: bottom }),
      svg("text", { class: "tick", x: x(tick), y: bottom + 16, "text-anchor": "middle" },
        axis.text(tick)));
  plot.append(svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 4, y2: bottom }));
  rows.forEach((row, place) => {
    const y = place * step + step / 2 + 4, colour = colourOf[row.name];
    plot.append(svg("text", { class: "name", x: left - 12, y: y + 4, "text-anchor": "end" },
      row.name.length > 30 ? `${row.name.slice(0, 29)}…` : row.name));
    if (row.low !== null)
      plot.append(svg("line", { class: "interval", stroke: colour, x1: x(row.low), x2: x(row.high),
        y1: y, y2: y }));
    for (const [seed, value] of row.seeds)
      plot.append(svg("circle", { class: "seed", cx: x(value), cy: y, r: 3.5, fill: colour },
        svg("title", {}, `seed ${seed}: ${shown(value)}`)));
    plot.append(svg("circle", { class: "mean", cx: x(row.mean), cy: y, r: 6, fill: colour },
      svg("title", {}, `mean: ${shown(row.mean)}`)),
    svg("text", { class: "name", x: width - right + 12, y: y + 4 }, row.verdict));
  });
  at("#differences").append(plot);
}

function showChart({ title, lines }) {
  const drawn = lines.filter(({ points }) => points.length);
  const last = Math.max(1, ...drawn.flatMap(({ points }) => points.map(([epoch]) => epoch)));
  const epochs = { label: "epoch", text: shown, share: (epoch) => epoch / last,
    ticks: evenTicks(0, last, 6).filter(Number.isInteger) };
  const values = axisOf(drawn.flatMap(({ points }) => points.flatMap((point) => point.slice(1))), 5);
  const plot = emptyPlot(title);
  const { x, y } = drawAxes(plot, epochs, values);
  const path = (points) => points.map(([epoch, value], i) =>
    `${i ? "L" : "M"}${x(epoch).toFixed(2)} ${y(value).toFixed(2)}`).join("");
  for (const { name, points } of drawn) {
    const high = points.map(([epoch, , , most]) => [epoch, most]);
    const low = points.map(([epoch, , least]) => [epoch, least]).reverse();
    plot.append(
      svg("path", { class: "band", fill: colourOf[name], d: `${path([...high, ...low])}Z` }),
      svg("path", { class: "curve", stroke: colourOf[name], d: path(points) }),
      ...(points.length > 40 ? [] : points.map(([epoch, mean]) =>
        svg("circle", { cx: x(epoch), cy: y(mean), r: 2.4, fill: colourOf[name] },
          svg("title", {}, `${name}, epoch ${epoch}: ${shown(mean)}`)))));
  }
  at("#charts").append(html("section", { class: "chart" }, html("h3", {}, title), plot));
}

at("#about").append(...data.about.map((line) => html("div", {}, line)));
showRows(at("#table"), data.table);
showClaims();
at("#notes").append(...data.notes.map((note) => html("li", {}, note)));
showDifferences();
at("#legend").append(...data.configurations.map(({ name, colour }) =>
  html("span", {}, swatch(colour), name)));
data.charts.forEach(showChart);
