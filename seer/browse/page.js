"use strict";
// The page: a view for each `#view=value`. What the server says is put in as text, never as HTML.

const SOON = 1000; // ms between two questions for what is not known yet
const GROUPS = 20;
const IMAGES = 60;
const COLOURS = 10;
const LIMITS = ["0.9999", "0.999", "0.99", "0.98", "0.95", "0.9"];
const $ = (id) => document.getElementById(id);
const view = $("view");
const state = { about: null, turn: 0, points: "", limit: "", sent: null };

function element(tag, properties = {}, ...children) {
  const made = Object.assign(document.createElement(tag), properties);
  made.append(...children);
  return made;
}

async function ask(path, values = {}, options = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(values)}`, options);
  const content = await answer.json();
  if (!answer.ok) throw new Error(content.error);
  return content;
}

async function numbers(path, Kind, values = {}) {
  const answer = await fetch(`${path}?${new URLSearchParams(values)}`);
  return answer.ok ? new Kind(await answer.arrayBuffer()) : new Kind(0);
}

const plural = (count, word) => `${count.toLocaleString("en")} ${word}${count === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;

function tile(image) {
  const picture = element("img", { src: `/thumb?image=${image.number}`, alt: image.name, loading: "lazy" });
  const link = element("a", { className: "tile", href: `#near=${image.number}`, title: image.name }, picture);
  const figure = image.cosine ?? image.distance;
  if (figure !== undefined) link.append(element("span", { className: "figure" }, `${figure}`));
  link.append(element("span", {}, image.label || image.name));
  return link;
}

const tiles = (images) => element("div", { className: "tiles" }, ...images.map(tile));

// Fills the view by `show`, and says what went wrong, or is still being found out.
async function fill(show) {
  const turn = ++state.turn;
  const current = () => turn === state.turn;
  try {
    const content = await show();
    if (!current()) return;
    if (content.pending === undefined) {
      view.replaceChildren(...content);
      return;
    }
    view.replaceChildren(element("p", { className: "pending" }, `Not known yet: ${content.pending} …`));
    setTimeout(() => current() && fill(show), SOON);
  } catch (error) {
    if (current()) view.replaceChildren(element("p", { className: "wrong" }, error.message));
  }
}

// A button that adds what comes next to a list, as long as there is more.
function more(list, from, total, next) {
  const button = element("button", { className: "more", type: "button" }, "More");
  button.hidden = from >= total;
  button.onclick = async () => {
    const made = await next(from);
    list.append(...made);
    from += made.length;
    button.hidden = from >= total || !made.length;
  };
  return button;
}

async function neighbours(number) {
  const image = number || String(Math.floor(Math.random() * state.about.images));
  const answer = await ask("/api/nearest", { image });
  const { query } = answer;
  const links = element("p", {}, element("a", { href: `#map=${query.number}` }, "on the map"));
  const shown = asked(`/image?image=${query.number}`, query.name, query.label, links);
  return [shown, element("h2", {}, "Nearest"), cosines(), tiles(answer.images)];
}

const cosines = () => element("p", { className: "hint" }, "by the cosine of their features, over all images");

function asked(source, name, label, ...rest) {
  const words = element("div", {}, element("h2", {}, name), element("p", {}, label), ...rest);
  return element("div", { className: "query card" }, element("img", { src: source, alt: name }), words);
}

async function sent() {
  if (!state.sent) return [element("p", {}, "Drop an image on the page, or choose one above.")];
  const { file, url } = state.sent;
  const answer = await ask("/api/nearest", {}, { method: "POST", body: file });
  return [asked(url, file.name || "pasted", "not of the data set"), element("h2", {}, "Nearest"), cosines(), tiles(answer.images)];
}

function send(file) {
  if (!file) return;
  if (state.sent) URL.revokeObjectURL(state.sent.url);
  state.sent = { file, url: URL.createObjectURL(file) };
  if (location.hash === "#sent") show();
  else location.hash = "#sent";
}

async function found(text) {
  const list = await ask("/api/find", { text, count: IMAGES });
  return [element("h2", {}, `${plural(list.total, "image")} with “${text}”`), ...paged(list, "/api/find", { text })];
}

function paged(list, path, values) {
  const grid = tiles(list.images);
  const next = async (from) => (await ask(path, { ...values, from, count: IMAGES })).images.map(tile);
  return [grid, more(grid, list.images.length, list.total, next)];
}

async function outliers() {
  const list = await ask("/api/outliers", { count: IMAGES });
  if (list.pending !== undefined) return list;
  const note = "Those that are least like any other: 1 minus the mean cosine of an image and its ten nearest.";
  return [element("p", {}, note), ...paged(list, "/api/outliers", {})];
}

async function groups(kind, values = {}) {
  const answer = await ask("/api/groups", { kind, count: GROUPS, ...values });
  if (answer.pending !== undefined) return answer;
  const largest = answer.groups.length ? answer.groups[0].size : 1;
  const row = (group) => groupRow(kind, group, largest, values);
  const list = element("div", {}, ...answer.groups.map(row));
  const next = async (from) => (await ask("/api/groups", { kind, from, count: GROUPS, ...values })).groups.map(row);
  return [element("p", {}, summary(kind, answer)), list, more(list, answer.groups.length, answer.filled, next)];
}

function summary(kind, answer) {
  const { count, empty, filled, images } = answer;
  if (kind === "duplicates") {
    return filled ? `${plural(images, "image")} in ${plural(filled, "set")} of images that are nearly the same to this backbone.` : "None are as alike as that.";
  }
  if (kind === "classes") return `${plural(count, "class")}, by the folders or labels of the data.`;
  if (kind === "clusters") return `${plural(filled, "cluster")} by k-means, each with the images nearest to its centre first.`;
  const few = count > state.about.images ? " There are fewer images than prototypes." : "";
  return `Of ${plural(count, "prototype")} ${filled.toLocaleString("en")} collect images and ${empty.toLocaleString("en")} are empty.${few} Each image is counted for the prototype that it is nearest to; the nearest come first.`;
}

function groupRow(kind, group, largest, values) {
  const query = new URLSearchParams(values).toString();
  const link = element("a", { href: `#${kind}=${group.group}${query ? `&${query}` : ""}` }, group.name);
  const size = plural(group.size, "image") + (group.mostly ? `, ${Math.round(100 * group.mostly[1])} % ${group.mostly[0]}` : "");
  const bar = element("div", { className: "bar" });
  bar.style.width = `${(100 * group.size) / largest}%`;
  const heading = element("h3", {}, link, element("span", { className: "size" }, size));
  return element("div", { className: "group card" }, heading, bar, tiles(group.images));
}

async function group(kind, number, values = {}) {
  const list = await ask("/api/group", { kind, group: number, count: IMAGES, ...values });
  if (list.pending !== undefined) return list;
  const mostly = list.mostly ? `, ${Math.round(100 * list.mostly[1])} % ${list.mostly[0]}` : "";
  return [element("h2", {}, list.name), element("p", {}, `${plural(list.size, "image")}${mostly}`), ...paged(list, "/api/group", { kind, group: number, ...values })];
}

async function duplicates() {
  const select = element("select", { ariaLabel: "Least cosine" }, ...LIMITS.map((limit) => element("option", { value: limit }, `cosine ≥ ${limit}`)));
  select.onchange = () => {
    state.limit = select.value;
    fill(duplicates);
  };
  if (!state.limit) {
    const usual = await ask("/api/limit");
    if (usual.pending !== undefined) return usual;
    state.limit = usual.least;
  }
  select.value = state.limit;
  const content = await groups("duplicates", { least: state.limit });
  return content.pending === undefined ? [element("p", {}, select), ...content] : content;
}

async function prototypes() {
  if (state.about.no_prototypes) return [element("p", {}, `${state.about.no_prototypes}.`)];
  return groups("prototypes");
}

async function classes() {
  if (state.about.kinds.includes("classes")) return groups("classes");
  return [element("p", {}, "The images have no classes: neither folders nor labels.")];
}

// The map.

const tip = $("tip");

function hover(image, x, y) {
  tip.style.opacity = image < 0 ? 0 : 1;
  if (image < 0) return;
  if (tip.dataset.image !== String(image)) {
    tip.dataset.image = image;
    tip.replaceChildren(element("img", { src: `/thumb?image=${image}`, alt: "" }));
  }
  const room = $("canvas").clientWidth - 180;
  tip.style.left = `${Math.max(0, Math.min(x + 14, room))}px`;
  tip.style.top = `${Math.max(0, y - 60)}px`;
}

const map = new ImageMap($("canvas"), hover, (image) => (location.hash = `#near=${image}`));

function packed(colour) {
  const context = element("canvas", { width: 1, height: 1 }).getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return new Uint32Array(context.getImageData(0, 0, 1, 1).data.buffer)[0];
}

async function shade() {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  const kind = $("kind").value;
  map.ground = packed(colour("--paper"));
  map.ring = colour("--ink");
  const shades = new Uint32Array(state.about.images).fill(packed(colour(kind ? "--base" : "--c0")));
  $("legend").replaceChildren();
  if (kind) {
    const members = await numbers("/api/members", Int32Array, { kind });
    const { groups: largest } = await ask("/api/groups", { kind, count: COLOURS });
    const places = new Map(largest.map((group, place) => [group.group, packed(colour(`--c${place}`))]));
    members.forEach((member, image) => {
      if (places.has(member)) shades[image] = places.get(member);
    });
    $("legend").replaceChildren(...largest.map(legendRow));
  }
  map.shades = shades;
  map.redraw();
}

function legendRow(group, place) {
  const swatch = element("i", { className: `swatch s${place}` });
  return element("li", {}, swatch, `${group.name} (${group.size.toLocaleString("en")})`);
}

async function showMap(number) {
  ++state.turn;
  view.replaceChildren();
  await drawn();
  map.marked = [];
  if (number) {
    const { images } = await ask("/api/nearest", { image: number, count: 12 });
    map.marked = [Number(number), ...images.map((image) => image.number)];
  }
  map.redraw();
}

// Points and colours as the server has them by now.
async function drawn() {
  const { about } = state;
  if (state.points !== about.map) {
    map.points = await numbers("/api/points", Float32Array);
    map.whole();
    state.points = about.map;
  }
  const select = $("kind");
  const known = [...select.options].map((option) => option.value);
  for (const kind of about.kinds.filter((kind) => !known.includes(kind))) {
    select.append(element("option", { value: kind }, kind));
    if (kind === "classes") select.value = kind;
  }
  $("note").textContent = about.map;
  await shade();
}

// What there is to show, and the view that the address names.

const VIEWS = { near: neighbours, find: found, sent, outliers, duplicates, prototypes, classes, clusters: () => groups("clusters") };
const TABS = { find: "near", sent: "near" };

function show() {
  const [name, value = ""] = location.hash.slice(1).split(/=(.*)/s);
  const chosen = name in VIEWS || name === "map" ? name : "near";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.hash === `#${TABS[chosen] ?? chosen}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  $("chart").hidden = chosen !== "map";
  if (chosen === "map") return showMap(value);
  const [number, query] = value.split(/&(.*)/s);
  if (value && ["prototypes", "clusters", "classes", "duplicates"].includes(chosen)) {
    return fill(() => group(chosen, number, Object.fromEntries(new URLSearchParams(query ?? ""))));
  }
  return fill(() => VIEWS[chosen](chosen === "find" ? decodeURIComponent(value) : number));
}

// Asks what is known by now, until everything is.
async function follow() {
  try {
    const before = state.about;
    state.about = await ask("/api/about");
    const changed = before && (before.map !== state.about.map || before.kinds.length !== state.about.kinds.length);
    if (changed && !$("chart").hidden) await drawn();
  } catch {
    $("doing").textContent = "The server is gone: start seer browse again.";
    setTimeout(follow, 5 * SOON);
    return;
  }
  const { doing } = state.about;
  $("doing").textContent = doing ? `${doing} …` : "";
  if (doing && !doing.startsWith("stopped")) setTimeout(follow, SOON);
}

$("find").onsubmit = (event) => {
  event.preventDefault();
  location.hash = `#find=${encodeURIComponent($("text").value)}`;
};
$("random").onclick = (event) => {
  event.preventDefault();
  location.hash = `#near=${Math.floor(Math.random() * state.about.images)}`;
};
$("file").onchange = (event) => send(event.target.files[0]);
$("kind").onchange = shade;
$("in").onclick = () => map.nearer(1.6);
$("out").onclick = () => map.nearer(1 / 1.6);
$("whole").onclick = () => map.whole();
addEventListener("hashchange", show);
addEventListener("paste", (event) => send([...event.clipboardData.files].find((file) => file.type.startsWith("image/"))));
addEventListener("dragover", (event) => {
  event.preventDefault();
  $("drop").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("drop").hidden = true;
});
addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  send(event.dataTransfer.files[0]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => state.about && shade());
follow().then(show);
