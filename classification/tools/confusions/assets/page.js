// All of the page; data as from page_data in classification/tools/confusions/page.py.

const percent = (share) => `${(100 * share).toFixed(1)} %`;
const classButton = (place) => html("button", { type: "button", onclick: () => choose(place) },
  data.names[place]);

for (const [name, value] of data.facts)
  at("#facts").append(html("dt", {}, name), html("dd", {}, value));
for (const [name, value] of data.tiles)
  at("#tiles").append(html("div", { class: "tile" }, html("b", {}, value), html("span", {}, name)));
at("#matrix").src = data.matrix;

at("#pairs table").append(
  html("thead", {}, html("tr", {}, ...["true class", "predicted class", "images", "share",
    "the reverse"].map((name) => html("th", { scope: "col" }, name)))),
  html("tbody", {}, ...data.pairs.map(([row, column, count, share, reverse]) => html("tr", {},
    html("td", {}, classButton(row)), html("td", { class: "text" }, classButton(column)),
    html("td", {}, String(count)), html("td", {}, percent(share)),
    html("td", {}, String(reverse))))));

const places = new Map(data.names.map((name, place) => [name, place]));
const cells = [
  (name) => html("td", {}, classButton(places.get(name))),
  (count) => html("td", {}, String(count)),
  (share) => html("td", {}, percent(share)),
  (loss) => html("td", {}, loss.toFixed(3)),
  (name) => html("td", { class: "text" }, name),
  (count) => html("td", {}, count ? String(count) : "")];
sortableTable(at("#classes table"), data.columns, data.classes,
  (value, column) => cells[column](value), () => false);

const cards = data.cards.map((card) => ({ ...card, element: html("div", { class: "card" },
  html("img", { src: card.picture, alt: card.file, loading: "lazy" }),
  html("b", {}, data.names[card.truth]),
  html("span", { class: card.truth === card.found ? "right" : "wrong" },
    `${card.truth === card.found ? "seen" : `taken for ${data.names[card.found]}`}, ` +
    percent(card.probability)),
  html("span", {}, `loss ${card.loss.toFixed(3)}`),
  html("span", { class: "file" }, card.file)) }));
at("#cards").append(...cards.map((card) => card.element));
for (const place of new Set(cards.map((card) => card.truth).sort((one, other) => one - other)))
  at("#by-class").append(html("option", { value: place }, data.names[place]));

function show(place) {
  for (const card of cards) card.element.hidden = place >= 0 && card.truth !== place;
  const count = cards.filter((card) => !card.element.hidden).length;
  at("#status").textContent = `${count} of ${cards.length} images` +
    (place >= 0 ? ` of ${data.names[place]}` : "");
  at("#by-class").value = place;
}

function choose(place) {
  show(place);
  at("#images").scrollIntoView();
}

at("#by-class").addEventListener("change", (event) => show(Number(event.target.value)));
at("#clear").addEventListener("click", () => show(-1));
show(-1);
