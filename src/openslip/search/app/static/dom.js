// Elements. Texts of captions and columns come in as text, never as HTML.

export const $ = (id) => document.getElementById(id);

/** Make an element: `make("p", {class: "quiet", onclick: …}, "text", child)`. */
export function make(tag, given = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(given)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

const SHAPES = { plus: "M10 4v12M4 10h12", minus: "M4 10h12", cross: "m5 5 10 10M15 5 5 15" };

export function icon(name) {
  const space = "http://www.w3.org/2000/svg";
  const drawn = document.createElementNS(space, "svg");
  drawn.setAttribute("class", "icon");
  drawn.setAttribute("viewBox", "0 0 20 20");
  drawn.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", SHAPES[name]);
  drawn.append(path);
  return drawn;
}

/** A text in which `code` stands between backticks. */
export function words(text) {
  return text.split("`").map((part, number) => (number % 2 ? make("code", {}, part) : part));
}

export const number = (value) => value.toLocaleString("en-US");

/** A value of a column as people read it. */
export function shown(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "number") {
    // Whole numbers are often years or keys, which have no commas.
    return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
  }
  if (Array.isArray(value)) return value.map(shown).join(", ");
  return typeof value === "object" ? JSON.stringify(value) : String(value);
}

export const reduced = () => matchMedia("(prefers-reduced-motion: reduce)").matches;
