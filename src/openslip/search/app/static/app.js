// The page: the query, the answer of the server, and what people do with the answer.

import { ask, post } from "./api.js";
import { $, make, number, words } from "./dom.js";
import { showCount, showFilters } from "./filters.js";
import { PictureMap } from "./map.js";
import { addPicture, showTerms, takePictures, withTerm } from "./terms.js";
import { Results } from "./results.js";
import { PAGE, empty, fromAddress, picture, request, toAddress } from "./state.js";
import { Viewer } from "./viewer.js";

const TYPING = 320; // milliseconds of rest after which what was typed is searched for
const MORE = 1;
const LESS = -0.5;

let state = fromAddress(location.search);
let about = null;
let search = new AbortController();
let typing = 0;
let lost = ""; // a notice that stays until people change something

const results = new Results(act);
const viewer = new Viewer(act, (hit, step) => results.hits[results.hits.findIndex((one) => one.row === hit.row) + step]);
const map = new PictureMap($("map"), { open: openRow, moved: (at) => change({ at }, { replace: true, quiet: true }) });
let mapped = null;

/** Change the query. replace: the address is no new place to come back to. quiet: nothing is searched. */
function change(given, { replace = false, quiet = false } = {}) {
  state = { ...state, ...given };
  if (!quiet) lost = "";
  history[replace ? "replaceState" : "pushState"](null, "", toAddress(state));
  if (!quiet) show();
}

/** Show the state, and search for it. */
function show() {
  clearTimeout(typing);
  if ($("text").value !== state.text) $("text").value = state.text;
  $("keep").hidden = !state.text.trim();
  showTerms(state.terms, about.version, (terms) => change({ terms }));
  showCount(state);
  document.title = state.text.trim() ? `${state.text.trim()} · ${about.name}` : `${about.name} · openslip`;
  for (const button of document.querySelectorAll("[data-view]")) {
    button.setAttribute("aria-pressed", button.dataset.view === state.view);
  }
  $("results").hidden = state.view !== "pictures";
  $("mapped").hidden = state.view !== "map";
  if (state.view === "map") showMap();
  find();
}

async function find(behind = false) {
  search.abort();
  search = new AbortController();
  const { signal } = search;
  const offset = behind ? results.hits.length : 0;
  $("grid").setAttribute("aria-busy", "true");
  let answer;
  try {
    const waiting = () => tell("Many people are searching: waiting for your turn …");
    answer = await post("/search", request(state, offset), { signal, waiting });
  } catch (error) {
    if (!signal.aborted) fail(error, () => find(behind));
    return;
  }
  if (signal.aborted) return;
  $("grid").removeAttribute("aria-busy");
  const newer =
    "The pictures have been embedded again since this server started. To see the new ones, end the server with Ctrl-C, and start `slip serve` again.";
  notice(lost || [answer.newer ? newer : "", ...answer.notes.map((note) => `${note}.`)].filter(Boolean).join(" "), { error: Boolean(lost) });
  results.show(answer.hits, about.version, behind);
  $("more").hidden = !answer.more || results.hits.length >= 10000;
  nothing(answer);
  map.mark(isSearch() ? results.hits.map((hit) => hit.row) : []);
  tell(summary(answer));
}

const isSearch = () => Boolean(state.text.trim() || state.terms.length);

function summary(answer) {
  const count = results.hits.length;
  const all = `${number(answer.among)} ${answer.among === 1 ? "picture" : "pictures"}`;
  const fit = state.filters.length ? `${all} that fit the filters` : all;
  if (count === 0) return answer.among ? `None of ${fit}` : "Nothing was found";
  if (!isSearch()) return count === answer.among ? fit : `${number(count)} of ${fit}, in their order`;
  const least = state.threshold === null ? "" : ` with a score of ${state.threshold} or more`;
  return `${number(count)} of ${fit}${least}, the most similar first`;
}

/** Say why nothing was found, and what would help. */
function nothing(answer) {
  const none = results.hits.length === 0;
  $("nothing").hidden = !none;
  if (!none) return;
  const says = (title, text, button, done) =>
    $("nothing").replaceChildren(
      make("p", {}, make("strong", {}, title), text),
      ...(button ? [make("button", { type: "button", onclick: done }, button)] : []),
    );
  if (answer.among === 0 && state.filters.length) {
    says("No picture fits the filters", "Widen the filters, or clear them.", "Clear the filters", () => change({ filters: [] }, {}));
  } else if (state.threshold !== null && isSearch()) {
    const text = `One model's scores can be much lower than another model's: compare only scores of the same model.`;
    says(`No picture has a score of ${state.threshold} or more`, text, "Show the most similar ones", () => change({ threshold: null }));
  } else {
    says("There are no pictures", "The index is empty.");
  }
}

const tell = (text) => ($("status").textContent = text);

function notice(text, { error = false, button = "", done } = {}) {
  const box = $("notice");
  box.hidden = !text;
  box.className = error ? "error" : "";
  box.replaceChildren(
    make("span", {}, ...words(text)),
    ...(button ? [make("button", { type: "button", onclick: done }, button)] : []),
  );
}

function fail(error, again) {
  $("grid").removeAttribute("aria-busy");
  tell("");
  const passing = !error.status || error.status >= 500; // others would be the same again
  notice(error.message, { error: true, ...(passing && { button: "Try again", done: again }) });
}

function act(name, hit) {
  if (name === "open") viewer.show(hit, about.version);
  else if (name === "more") change({ terms: withTerm(state.terms, "row", hit.row, MORE) });
  else if (name === "less") change({ terms: withTerm(state.terms, "row", hit.row, LESS) });
  else if (name === "only") change({ text: "", terms: [{ kind: "row", value: hit.row, weight: 1 }], view: "pictures" });
  else if (name === "map") {
    change({ view: "map" });
    showMap().then(() => {
      if (!map.goTo(hit.row)) tell("This picture is not on the map, which shows only some of the pictures.");
    });
  }
}

async function openRow(row) {
  const found = results.hits.find((hit) => hit.row === row);
  try {
    viewer.show(found ?? (await ask(`/record/${row}`)), about.version);
  } catch (error) {
    notice(error.message, { error: true });
  }
}

function showMap() {
  mapped ??= loadMap();
  requestAnimationFrame(() => map.resize());
  return mapped;
}

async function loadMap() {
  $("mapwords").textContent = "The map is being made …";
  try {
    const points = await ask("/map", { patience: 200 });
    map.show(points, about.version, state.at);
    map.mark(isSearch() ? results.hits.map((hit) => hit.row) : []);
    const shown = points.rows.length;
    const count = shown < about.pictures ? `${number(shown)} of ${number(about.pictures)} pictures` : `${number(shown)} pictures`;
    const made =
      points.made_of === "columns" ? "placed by the columns x and y" : "placed by the two directions in which they differ most";
    $("mapwords").textContent = `${count}, ${made}`;
    $("map").setAttribute(
      "aria-label",
      `Map of ${count}. Arrow keys move it, plus and minus zoom, 0 shows all, Enter opens the picture in the middle.`,
    );
  } catch (error) {
    mapped = null;
    $("mapwords").textContent = error.message;
  }
}

async function take(files) {
  if (!about) return;
  const pictures = files.filter((file) => !file.type || file.type.startsWith("image/"));
  if (!pictures.length) {
    if (files.length) notice(`${files[0].name || "The dropped file"} is not a picture.`, { error: true });
    return;
  }
  tell("Looking at the picture …");
  let terms = state.terms;
  try {
    for (const file of pictures.slice(0, 8)) {
      terms = withTerm(terms, "picture", await addPicture(file, about.limits), 1);
    }
  } catch (error) {
    fail(error, () => take(files));
    return;
  }
  change({ terms, view: "pictures" });
}

function listen() {
  $("text").addEventListener("input", () => {
    clearTimeout(typing);
    $("keep").hidden = !$("text").value.trim();
    typing = setTimeout(() => change({ text: $("text").value }, { replace: true }), TYPING);
  });
  $("search").addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(typing);
    change({ text: $("text").value });
  });
  $("keep").addEventListener("click", keep);
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && event.shiftKey) {
      event.preventDefault();
      keep();
    } else if (event.key === "ArrowDown") {
      event.preventDefault();
      if (state.view === "map") $("map").focus();
      else results.focus();
    } else if (event.key === "Escape") {
      event.preventDefault();
      if ($("text").value) change({ text: "" });
      else if (state.terms.length || state.filters.length) change({ ...empty(), view: state.view, at: state.at });
    }
  });
  $("more").addEventListener("click", () => find(true));
  $("filtering").addEventListener("click", () => {
    const open = $("filters").hidden;
    $("filters").hidden = !open;
    $("filtering").setAttribute("aria-expanded", open);
    if (open) filters();
  });
  for (const button of document.querySelectorAll("[data-view]")) {
    button.addEventListener("click", () => change({ view: button.dataset.view }));
  }
  for (const button of document.querySelectorAll("[data-zoom]")) {
    const how = button.dataset.zoom;
    button.addEventListener("click", () => (how === "all" ? map.all() : map.glide(how === "in" ? 2 : 0.5)));
  }
  addEventListener("keydown", (event) => {
    const writing = event.target.closest?.("input, select, textarea, dialog");
    if (event.key === "/" && !writing && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      $("text").focus();
      $("text").select();
    } else if (event.key === "Escape" && !writing) {
      $("text").focus();
    }
  });
  addEventListener("popstate", () => {
    const before = state;
    state = withKnown(fromAddress(location.search));
    if (state.view === "map" && state.at && before.view === "map") state.at = before.at;
    if (!$("filters").hidden) filters();
    show();
  });
  takePictures(take);
}

/** Keep the text as a term, and make room for another. */
function keep() {
  const text = $("text").value.trim();
  if (!text) return;
  change({ text: "", terms: withTerm(state.terms, "text", text, 1) });
  $("text").focus();
}

async function filters() {
  const draw = () =>
    showFilters(about.columns, state, (filters, threshold) => {
      const before = document.activeElement?.id;
      change({ filters, threshold });
      if (before === "unfilter") draw();
      else $("unfilter").disabled = !filters.length && threshold === null;
    });
  draw();
  while (!about.columns) {
    await new Promise((resolve) => setTimeout(resolve, 500));
    try {
      about = await ask("/about");
    } catch (error) {
      fail(error, filters);
      return;
    }
    if (about.columns) draw();
  }
}

/** The state without pictures that this tab does not have; a notice tells of them. */
function withKnown(found) {
  const terms = found.terms.filter((term) => term.kind !== "picture" || picture(term.value));
  lost =
    terms.length < found.terms.length
      ? "A picture of this address was dropped in another tab, and is not kept anywhere. Drop the picture here again."
      : "";
  return { ...found, terms };
}

async function begin() {
  try {
    about = await ask("/about");
  } catch (error) {
    fail(error, begin);
    return;
  }
  $("collection").textContent = `${about.name} · ${number(about.pictures)} pictures · ${about.model || "a model"}`;
  if (!about.text) {
    $("text").disabled = true;
    $("text").placeholder = "This model cannot search by text: drop a picture";
  } else if (matchMedia("(max-width: 620px)").matches) {
    $("text").placeholder = "Write what you are looking for";
  }
  state = withKnown(state);
  listen();
  show();
  if (!state.text && !state.terms.length && matchMedia("(hover: hover)").matches) $("text").focus();
}

begin();
