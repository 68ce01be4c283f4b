// How far scores can be trusted: a reliability diagram and a histogram of scores.

const scoreAxis = {
  label: "score",
  ticks: [0, 0.2, 0.4, 0.6, 0.8, 1],
  text: (score) => score.toFixed(1),
  share: (score) => score,
};

function reliability({ hits, misses, scores }) {
  const plot = emptyPlot("share that is right");
  const { x, y } = drawAxes(plot, scoreAxis,
    { ticks: [0, 0.25, 0.5, 0.75, 1], text: String, share: (share) => share });
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
  const plot = emptyPlot("detections");
  const powers = Math.ceil(Math.log10(Math.max(10, ...hits, ...misses)));
  const { x, y } = drawAxes(plot, scoreAxis, {
    ticks: Array.from({ length: powers + 1 }, (_, power) => 10 ** power),
    text: (count) => count.toLocaleString("en"),
    // A count of 1 stands a little above the axis, so that it can be seen.
    share: (count) => (count ? (Math.log10(count) + 0.3) / (powers + 0.3) : 0),
  });
  const half = (x(1 / hits.length) - x(0)) / 2;
  [[hits, "right"], [misses, "false"]].forEach(([counts, name], which) => {
    counts.forEach((count, bin) => plot.append(
      svg("rect", { x: x(bin / counts.length) + which * half + 1 - which, width: half - 1,
        y: y(count), height: y(0) - y(count), fill: colours[which] },
        svg("title", {}, `${count} ${name}`))));
    plot.append(
      svg("rect", { x: WIDTH - 120 + 60 * which, y: TOP, width: 10, height: 10,
        fill: colours[which] }),
      svg("text", { x: WIDTH - 106 + 60 * which, y: TOP + 9 }, name));
  });
  return plot;
}
