// The terms of a search beside the text in the box: texts, results that are liked or not, pictures that were dropped.

import { ask } from "./api.js";
import { $, icon, make } from "./dom.js";
import { keepPicture, picture } from "./state.js";

const SMALL = 96;

/** Show the terms. `change` is called with the new list. */
export function showTerms(terms, version, change) {
  $("terms").replaceChildren(
    ...terms.map((term, number) => {
      const name = nameOf(term);
      const weight = make("input", {
        type: "number",
        step: "0.5",
        min: -1000,
        max: 1000,
        value: term.weight,
        "aria-label": `Weight of ${name}`,
        title: "How much this term counts; a negative weight searches away from it",
        onchange: (event) => {
          const value = Number(event.target.value);
          if (Number.isFinite(value) && value !== 0) change(terms.with(number, { ...term, weight: clamp(value) }));
          else change(terms.toSpliced(number, 1));
        },
      });
      return make(
        "li",
        { class: term.weight < 0 ? "term less" : "term" },
        drawing(term, version),
        make("span", { class: "name", title: name }, term.kind === "text" ? `“${term.value}”` : name),
        weight,
        make(
          "button",
          {
            type: "button",
            "aria-label": `Leave out ${name}`,
            title: "Leave it out",
            onclick: () => {
              change(terms.toSpliced(number, 1));
              ($("terms").querySelectorAll(".term button")[Math.max(0, number - 1)] ?? $("text")).focus();
            },
          },
          icon("cross"),
        ),
      );
    }),
  );
}

const clamp = (value) => Math.max(-1000, Math.min(1000, value));

function nameOf(term) {
  if (term.kind === "text") return term.value;
  if (term.kind === "picture") return picture(term.value)?.name ?? "a picture";
  return term.weight < 0 ? "less like this" : "like this";
}

function drawing(term, version) {
  if (term.kind === "row") return make("img", { src: `/thumbnail/${term.value}?v=${version}`, alt: "" });
  if (term.kind === "picture") return make("img", { src: picture(term.value)?.image ?? "", alt: "" });
  return null;
}

/** The terms with one more of a kind, or with another weight for one that is there. */
export function withTerm(terms, kind, value, weight) {
  const found = terms.findIndex((term) => term.kind === kind && term.value === value);
  if (found < 0) return [...terms, { kind, value, weight }];
  const sum = terms[found].weight + weight;
  return sum === 0 ? terms.toSpliced(found, 1) : terms.with(found, { ...terms[found], weight: clamp(sum) });
}

/** Have a person's picture embedded, and keep it in this tab; return its name there. */
export async function addPicture(file, limits, signal) {
  if (limits && file.size > limits.bytes) {
    throw new Error(`The picture has ${megabytes(file.size)} MB, and the server takes at most ${megabytes(limits.bytes)} MB.`);
  }
  const kind = file.type.startsWith("image/") ? file.type : "application/octet-stream";
  const answer = await ask("/embed", { body: file, kind, signal });
  return keepPicture({ name: file.name || "a picture", vector: answer.images[0], image: await small(file) });
}

const megabytes = (bytes) => Number((bytes / 1e6).toPrecision(3));

/** A small copy of a picture as a data address; "" of one that this browser cannot show, such as a TIFF. */
async function small(file) {
  try {
    const bitmap = await createImageBitmap(file);
    const side = Math.min(bitmap.width, bitmap.height);
    const canvas = make("canvas", { width: SMALL, height: SMALL });
    const [left, top] = [(bitmap.width - side) / 2, (bitmap.height - side) / 2];
    canvas.getContext("2d").drawImage(bitmap, left, top, side, side, 0, 0, SMALL, SMALL);
    bitmap.close();
    return canvas.toDataURL("image/jpeg", 0.85);
  } catch {
    return "";
  }
}

/** Take pictures that are dropped, pasted or picked anywhere on the page. `taken` is called with each list of files. */
export function takePictures(taken) {
  const file = $("file");
  $("pick").addEventListener("click", () => file.click());
  file.addEventListener("change", () => {
    taken([...file.files]);
    file.value = "";
  });
  addEventListener("paste", (event) => {
    const files = [...(event.clipboardData?.files ?? [])];
    if (files.length) {
      event.preventDefault();
      taken(files);
    }
  });
  let inside = 0;
  const over = (event) => event.dataTransfer?.types.includes("Files");
  addEventListener("dragenter", (event) => {
    if (!over(event)) return;
    event.preventDefault();
    inside += 1;
    $("drop").hidden = false;
  });
  addEventListener("dragover", (event) => over(event) && event.preventDefault());
  addEventListener("dragleave", (event) => {
    if (!over(event)) return;
    inside = Math.max(0, inside - 1);
    $("drop").hidden = inside === 0;
  });
  addEventListener("drop", (event) => {
    inside = 0;
    $("drop").hidden = true;
    if (!over(event)) return;
    event.preventDefault();
    taken([...event.dataTransfer.files]);
  });
}
