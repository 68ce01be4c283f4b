// Tables of the page; data as from page_data in tools/error_analysis/page.py.

const none = (value) => value === null || value < 0; // COCO has -1 where there is nothing to find
const shown = (share) => (none(share) ? "–" : share.toFixed(3));
const filter = { kind: -1, class: -1, cell: null };

function head() {
  for (const [name, value] of data.facts)
    at("#facts").append(html("dt", {}, name), html("dd", {}, value));
  for (const [name, value] of data.tiles)
    at("#tiles").append(html("div", { class: "tile" }, html("b", {}, shown(value)),
      html("span", {}, name)));
  for (const [name, table] of data.tables)
    at("#coco").append(html("h3", {}, `COCO's numbers: ${name}`), html("pre", {}, table));
}

function kinds() {
  const most = Math.max(1, ...data.kinds.map((kind) => Math.max(kind.detections, kind.objects)));
  const table = at("#kinds table"), body = html("tbody");
  const count = (kind, number, applies) => html("td", {}, applies ? String(number) : "");
  const bar = (kind) => html("span", { class: "bar", style: `background:${kind.colour};` +
    `width:${Math.round(180 * Math.max(kind.detections, kind.objects) / most)}px` });
  data.kinds.forEach((kind, place) => body.append(html("tr", {},
    html("td", {}, swatch(kind.colour),
      html("button", { type: "button", onclick: () => choose({ kind: place }) }, kind.name)),
    count(kind, kind.detections, kind.of !== "objects"),
    count(kind, kind.objects, kind.of !== "detections"),
    html("td", { class: "text" }, bar(kind)), html("td", { class: "text" }, kind.meaning))));
  const sum = (what) => String(data.kinds.reduce((total, kind) => total + kind[what], 0));
  table.append(
    html("thead", {}, html("tr", {}, ...["kind", "detections", "objects", "", ""].map(
      (name) => html("th", {}, name)))), body,
    html("tfoot", {}, html("tr", {}, html("td", {}, "all"), html("td", {}, sum("detections")),
      html("td", {}, sum("objects")), html("td"), html("td"))));
  at("#kinds .note").textContent = data.notes.kinds;
}

function classes() {
  sortableTable(at("#classes table"), data.columns, data.classes, (value, column) =>
    html("td", {}, column > 1 ? shown(value) : column ? String(value) :
      html("button", { type: "button",
        onclick: () => choose({ class: data.names.indexOf(value) }) }, value)), none);
}

const MOST = 20; // classes of the confusion matrix that fit well

function confusion() {
  const nothing = data.names.length, cells = new Map(), totals = new Map(), errors = new Map();
  for (const [row, column, count] of data.confusion) {
    totals.set(row, (totals.get(row) || 0) + count);
    if (row === column) continue;
    // Classes that are taken for each other come before those that are only missed.
    const points = row === nothing || column === nothing ? count * 1e-6 : count;
    for (const place of [row, column]) errors.set(place, (errors.get(place) || 0) + points);
  }
  for (const cell of data.confusion) cells.set(`${cell[0]} ${cell[1]}`, cell);
  const worst = data.names.map((_, place) => place)
    .sort((one, other) => (errors.get(other) || 0) - (errors.get(one) || 0) || one - other)
    .slice(0, MOST).sort((one, other) => one - other);

  function draw(places) {
    const name = (place) => (place === nothing ? "nothing" : data.names[place]);
    const all = [...places, nothing];
    const table = html("table", { class: all.length > MOST + 1 ? "many" : undefined },
      html("thead", {}, html("tr", {}, html("th"), ...all.map((place) =>
        html("th", { scope: "col", title: name(place) }, html("span", {}, name(place)))))),
      html("tbody", {}, ...all.map((row) => html("tr", {},
        html("th", { scope: "row", title: name(row) }, name(row)),
        ...all.map((column) => cell(row, column, name))))));
    at("#confusion table").replaceWith(table);
  }

  function cell(row, column, name) {
    const found = cells.get(`${row} ${column}`);
    if (!found) return html("td");
    const count = found[2], colour = row === column ? "46,158,79" : "214,39,40";
    const depth = row === nothing ? 0.12 : 0.85 * Math.sqrt(count / totals.get(row));
    const button = html("button", { type: "button", "aria-pressed": "false",
      "data-cell": `${row} ${column}`, onclick: () => choose({ cell: found }),
      title: `${count} × ${name(row)}, detected: ${name(column)}` }, String(count));
    return html("td", { style: `background:rgba(${colour},${depth.toFixed(3)})` }, button);
  }

  draw(worst);
  if (data.names.length > MOST) {
    at("#all-classes").hidden = false;
    at("#all-classes span").textContent = `all ${data.names.length} classes, not only the ` +
      `${MOST} that are most often taken for another`;
    at("#all-classes input").addEventListener("change", (event) =>
      draw(event.target.checked ? data.names.map((_, place) => place) : worst));
  }
}

head();
curves();
kinds();
classes();
confusion();
at("#scores .note").textContent = data.notes.scores;
at("#reliability").append(reliability(data.calibration));
at("#histogram").append(histogram(data.calibration, [data.kinds[0].colour, "#d62728"]));
