// The query in the address of the page, so that back, forward and copies of the address work.
//
// An address holds no pictures. The browser tab keeps the pictures that people drop, and the address has their names.

export const PAGE = 48;

/**
 * text: the text in the box. terms: [{kind: "text" | "row" | "picture", value, weight}]. filters: [[column, operator,
 * value]]. threshold: the least score, or null. view: "pictures" or "map". at: the place on the map, or null.
 */
export const empty = () => ({ text: "", terms: [], filters: [], threshold: null, view: "pictures", at: null });

const KINDS = {
  text: (value) => typeof value === "string" && value.trim(),
  row: (value) => Number.isInteger(value) && value >= 0,
  picture: (value) => typeof value === "string",
};

export function fromAddress(search) {
  const state = empty();
  const given = new URLSearchParams(search);
  state.text = given.get("q") ?? "";
  state.view = given.get("view") === "map" ? "map" : "pictures";
  const least = given.get("min");
  if (least !== null && least !== "" && Number.isFinite(Number(least))) state.threshold = Number(least);
  const at = (given.get("at") ?? "").split(",").map(Number);
  if (at.length === 3 && at.every(Number.isFinite) && at[2] > 0) state.at = at;
  state.terms = list(given.get("terms"))
    .filter((one) => Array.isArray(one) && KINDS[one[0]]?.(one[1]) && Number.isFinite(one[2]))
    .map(([kind, value, weight]) => ({ kind, value, weight }));
  state.filters = list(given.get("filters")).filter((one) => Array.isArray(one) && typeof one[0] === "string");
  return state;
}

export function toAddress(state) {
  const said = new URLSearchParams();
  if (state.text.trim()) said.set("q", state.text);
  if (state.terms.length) said.set("terms", JSON.stringify(state.terms.map((one) => [one.kind, one.value, one.weight])));
  if (state.filters.length) said.set("filters", JSON.stringify(state.filters));
  if (state.threshold !== null) said.set("min", state.threshold);
  if (state.view !== "pictures") said.set("view", state.view);
  if (state.view === "map" && state.at) said.set("at", state.at.map((one) => Number(one.toPrecision(5))).join(","));
  const text = said.toString();
  return text ? `?${text}` : location.pathname;
}

function list(text) {
  try {
    const found = JSON.parse(text ?? "[]");
    return Array.isArray(found) ? found : [];
  } catch {
    return [];
  }
}

const stored = new Map();

/** Keep a picture in this tab: {name, vector, image}; image is a small one as a data address. Return its id. */
export function keepPicture(picture) {
  const id = Array.from(crypto.getRandomValues(new Uint8Array(6)), (byte) => byte.toString(16).padStart(2, "0")).join("");
  stored.set(id, picture);
  try {
    sessionStorage.setItem(`picture ${id}`, JSON.stringify(picture));
  } catch {
    // The tab has no room for more: the picture lasts as long as the page.
  }
  return id;
}

export function picture(id) {
  if (!stored.has(id)) {
    try {
      const kept = JSON.parse(sessionStorage.getItem(`picture ${id}`));
      if (kept && Array.isArray(kept.vector)) stored.set(id, kept);
    } catch {
      // none
    }
  }
  return stored.get(id);
}

/** The request to the server that a state makes. */
export function request(state, offset, top = PAGE) {
  const terms = state.terms.map(({ kind, value, weight }) =>
    kind === "picture" ? { vector: picture(value).vector, weight } : { [kind]: value, weight },
  );
  if (state.text.trim()) terms.unshift({ text: state.text });
  const filters = state.filters.map(([column, operator, value]) => ({ column, operator, value }));
  const asked = { terms, filters, top, offset };
  if (state.threshold !== null && terms.length) asked.threshold = state.threshold;
  return asked;
}
