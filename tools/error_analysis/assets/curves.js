// Precision, recall and F1 by threshold, of all classes or of a chosen one.

const CURVES = [["precision", "#4c86c6"], ["recall", "#b98900"], ["F1", "#7048e8"]];
const share = { ticks: [0, 0.25, 0.5, 0.75, 1], text: String, share: (value) => value };

function line(plot, points, colour) {
  plot.append(svg("polyline", { points: points.map((point) => point.join()).join(" "),
    fill: "none", stroke: colour, "stroke-width": 2, "stroke-linejoin": "round" }));
}

const mark = (x, y, title) => svg("circle", { class: "best", cx: x, cy: y, r: 5, fill: "#fff",
  stroke: "#1d2530", "stroke-width": 2 }, svg("title", {}, title));

// A point is [score, precision, recall, F1].
function precisionRecall({ points, best }, title) {
  const plot = emptyPlot("precision by recall");
  const { x, y } = drawAxes(plot, { ...scoreAxis, label: "recall" }, share);
  const places = points.map(([, precision, recall]) => [x(recall), y(precision)]);
  line(plot, places, CURVES[0][1]);
  plot.append(mark(...places[best], title));
  return plot;
}

function byScore({ points, best }, title) {
  const plot = emptyPlot("precision, recall and F1 by threshold");
  const { x, y } = drawAxes(plot, { ...scoreAxis, label: "threshold" }, share);
  const at = x(points[best][0]);
  plot.append(svg("line", { x1: at, x2: at, y1: y(0), y2: y(1), stroke: "#1d2530",
    "stroke-dasharray": "5 4" }));
  CURVES.forEach(([name, colour], which) => {
    line(plot, points.map((point) => [x(point[0]), y(point[1 + which])]), colour);
    plot.append(
      svg("rect", { x: LEFT + 8, y: HEIGHT - BOTTOM - 46 + 15 * which, width: 10, height: 10,
        fill: colour }),
      svg("text", { x: LEFT + 22, y: HEIGHT - BOTTOM - 37 + 15 * which }, name));
  });
  plot.append(mark(at, y(points[best][3]), title));
  return plot;
}

function curves() {
  const select = at("#curve-class");
  data.names.forEach((name, place) => select.append(html("option", { value: place + 1 }, name)));

  function draw() {
    const curve = data.curves[select.value];
    at("#best").textContent = "No detection is right.";
    for (const id of ["#precision-recall", "#by-score"]) at(id).replaceChildren();
    if (!curve) return;
    const [, precision, recall, f1] = curve.points[curve.best].map((value) => value.toFixed(3));
    const text = `Best F1 ${f1} at a threshold of ${curve.threshold}: precision ${precision}, ` +
      `recall ${recall}.`;
    at("#best").textContent = text;
    at("#precision-recall").append(precisionRecall(curve, text));
    at("#by-score").append(byScore(curve, text));
  }

  select.addEventListener("change", draw);
  at("#curves .note").textContent = data.notes.curves;
  draw();
}
