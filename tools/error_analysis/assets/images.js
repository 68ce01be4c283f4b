// The worst images: filtered, and enlarged. Comes after page.js.

const cards = data.cards.map((card, place) => {
  const errors = [...card.found.filter((box) => box.kind > 0),
    ...card.truth.filter((box) => box.kind === data.kinds.length - 1)].length;
  const title = `${data.files[card.image]} (id ${card.id}): ${errors} error` +
    `${errors === 1 ? "" : "s"}, weight ${card.weight.toFixed(2)}`;
  const button = html("button", { type: "button", class: "card", onclick: () => enlarge(place) },
    html("span", {}, title), html("span", { class: "sides" }, ...sides(card, 250)));
  return { ...card, title, button };
});

function sides(card, width) {
  return ["truth", "found"].map((name) => html("span", { class: "side" },
    name === "truth" ? "annotated" : "detected", drawing(card, name, width)));
}

// width: of the drawing on the screen, in pixels, for letters of a fixed size.
function drawing(card, side, width) {
  const picture = svg("svg", { viewBox: `0 0 ${card.width} ${card.height}` });
  const layer = (href) => svg("image", { href, x: 0, y: 0, width: card.width, height: card.height,
    preserveAspectRatio: "none" });
  const layers = [card.picture, ...(card.masks ? [card.masks[side]] : [])].map(layer);
  picture.append(...layers);
  const pixel = card.width / width, size = 12 * pixel, gap = 3 * pixel, labels = [];
  // Errors are drawn last, over what is right, and surer detections over less sure ones; they are
  // the first to get a label.
  const boxes = [...card[side]].sort((one, other) => (one.kind > 0) - (other.kind > 0) ||
    (one.score || 0) - (other.score || 0));
  for (const box of boxes.reverse()) {
    const kind = data.kinds[box.kind] || data.uncounted, [x, y, w, h] = box.box;
    const text = box.kind < 0 && side === "truth" ? `crowd of ${data.names[box.class]}` :
      data.names[box.class] + (side === "found" ? score(box) : "");
    const outline = { x, y, width: w, height: h };
    layers.at(-1).after(svg("rect", { ...outline, class: "box casing" }),
      svg("rect", { ...outline, class: box.kind < 0 ? "box uncounted" : "box", stroke: kind.colour },
        svg("title", {}, box.below ? text : `${text}: ${kind.name}`)));
    const needed = 0.68 * size * text.length, most = Math.min(needed, card.width - 2 * gap);
    const place = free(labels, card, box.box, most, size, gap);
    if (!place) continue; // what the box is shows under the mouse
    labels.push(place);
    picture.append(svg("text", { class: "label", x: place.x, y: place.y, fill: kind.colour,
      "font-size": size, "stroke-width": gap,
      ...(needed > most ? { textLength: most, lengthAdjust: "spacingAndGlyphs" } : {}) }, text));
  }
  return picture;
}

// Rounded down below the threshold, so that none is said to reach it.
function score(box) {
  if (!box.below) return ` ${box.score.toFixed(2)}`;
  return ` ${(Math.floor(100 * box.score + 1e-4) / 100).toFixed(2)} < ${box.below}`;
}

// Where a label of that size goes, above its box if it can: where no other label is.
function free(labels, card, [x, y, w, h], width, size, gap) {
  const inside = (x) => Math.max(gap, Math.min(x, card.width - width - gap));
  const left = inside(x), right = inside(x + w - width);
  const places = [[left, y - gap], [left, y + h + size], [left, y + size + gap],
    [left, y + h - gap], [right, y - gap], [left, y - gap - size], [left, y + h + 2 * size]];
  return places
    .map(([x, y]) => ({ x, y: Math.min(card.height - gap, Math.max(size, y)), width }))
    .find((one) => !labels.some((other) => Math.abs(one.y - other.y) < size &&
      one.x < other.x + other.width && other.x < one.x + one.width));
}

function fits(card) {
  if (filter.cell) return filter.cell[3].includes(card.image);
  const of = (box) => [box.class, ...("taken" in box ? [box.taken] : [])];
  return [...card.truth, ...card.found].some((box) => box.kind >= 0 &&
    (filter.kind < 0 || box.kind === filter.kind) &&
    (filter.class < 0 || of(box).includes(filter.class)));
}

const MOST_FILES = 100;

function statusText(count) {
  if (!data.cards.length) return "No image is shown.";
  const all = data.files.length;
  if (!filter.cell && count === cards.length)
    return count === all ? `all ${all} images` : `the worst ${count} of ${all} images`;
  if (!filter.cell) return `${count} of the ${cards.length} images shown`;
  const [row, column, , images] = filter.cell, nothing = data.names.length;
  const what = column === nothing ? `with ${data.names[row]} that is not detected` :
    row === nothing ? `where ${data.names[column]} is detected without an object` :
    row === column ? `with ${data.names[row]} detected rightly` :
    `with ${data.names[row]} taken for ${data.names[column]}`;
  const files = images.slice(0, MOST_FILES).map((place) => data.files[place]).join(", ");
  const more = images.length > MOST_FILES ? ", …" : "";
  return `${images.length} image${images.length === 1 ? "" : "s"} ${what}, ` +
    `${count} of them below: ${files}${more}`;
}

function show() {
  const any = filter.kind < 0 && filter.class < 0 && !filter.cell;
  for (const card of cards) card.button.hidden = !any && !fits(card);
  at("#status").textContent = statusText(cards.filter((card) => !card.button.hidden).length);
  at("#by-kind").value = filter.kind;
  at("#by-class").value = filter.class;
  const pressed = filter.cell ? `${filter.cell[0]} ${filter.cell[1]}` : "";
  for (const button of document.querySelectorAll("[data-cell]"))
    button.setAttribute("aria-pressed", String(button.dataset.cell === pressed));
}

// From elsewhere on the page: one choice in place of all others.
function choose(choice) {
  Object.assign(filter, { kind: -1, class: -1, cell: null }, choice);
  show();
  at("#images").scrollIntoView();
}

let current = 0; // the card that is enlarged

function enlarge(place) {
  current = place;
  at("#large-title").textContent = cards[place].title;
  const dialog = at("#large");
  if (!dialog.open) dialog.showModal();
  const room = at("#large-sides").clientWidth / 2 - 8;
  const width = Math.min(room, 0.82 * innerHeight * cards[place].width / cards[place].height);
  at("#large-sides").replaceChildren(...sides(cards[place], width));
}

function step(by) {
  for (let place = current + by; place >= 0 && place < cards.length; place += by)
    if (!cards[place].button.hidden) return enlarge(place);
}

at("#images .note").textContent = data.notes.images;
data.kinds.forEach((kind, place) => {
  at("#by-kind").append(html("option", { value: place }, kind.name));
  at("#legend").append(html("span", {}, swatch(kind.colour), kind.name));
});
data.names.forEach((name, place) => at("#by-class").append(html("option", { value: place }, name)));
at("#by-kind").addEventListener("change", (event) => {
  Object.assign(filter, { kind: Number(event.target.value), cell: null });
  show();
});
at("#by-class").addEventListener("change", (event) => {
  Object.assign(filter, { class: Number(event.target.value), cell: null });
  show();
});
at("#clear").addEventListener("click", () => choose({}));
at("#previous").addEventListener("click", () => step(-1));
at("#next").addEventListener("click", () => step(1));
at("#large").addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft") step(-1);
  if (event.key === "ArrowRight") step(1);
});
at("#large").addEventListener("click", (event) => {
  if (event.target === at("#large")) at("#large").close(); // beside the picture
});
at("#cards").append(...cards.map((card) => card.button));
show();
