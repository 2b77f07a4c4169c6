// Conditions on the columns of the records, and the least score.

import { $, make, number, shown } from "./dom.js";

let serial = 0;

/** Show a field for each column. `change` is called with (filters, threshold) when a person has changed one. */
export function showFilters(columns, state, change) {
  const box = $("filters");
  const fields = (columns ?? []).map((column) => fieldOf(column, state.filters.filter((one) => one[0] === column.name)));
  const known = new Set((columns ?? []).map((column) => column.name));
  const others = state.filters.filter((one) => !known.has(one[0])); // which an address has brought along
  const least = make("input", {
    type: "number",
    step: "0.01",
    min: -1,
    max: 1,
    placeholder: "any",
    value: state.threshold ?? "",
  });
  const tell = () => {
    const value = least.value === "" ? null : Number(least.value);
    change([...fields.flatMap((field) => field.read()), ...others], Number.isFinite(value) ? value : null);
  };
  for (const field of fields) field.element.addEventListener("change", tell);
  least.addEventListener("change", tell);
  const count = state.filters.length + (state.threshold !== null);
  box.replaceChildren(
    make("label", {}, make("span", { class: "legend" }, "Score, from"), least),
    ...fields.map((field) => field.element),
    make(
      "p",
      { class: "end" },
      make("span", {}, fields.length ? "" : columns ? "The records have no columns to filter by." : "Looking at the columns …"),
      make("button", { type: "button", id: "unfilter", disabled: count === 0, onclick: () => change([], null) }, "Clear all"),
    ),
  );
  showCount(state);
}

export function showCount(state) {
  const count = new Set(state.filters.map((one) => one[0])).size + (state.threshold !== null);
  $("filtered").textContent = count;
  $("filtered").hidden = count === 0;
}

function fieldOf(column, filters) {
  const value = (operator) => filters.find((one) => one[1] === operator)?.[2];
  if (column.kind === "number") {
    const ends = [
      [">=", "from", column.least],
      ["<=", "to", column.most],
    ].map(([operator, word, end]) => ({
      operator,
      input: make("input", {
        type: "number",
        step: column.whole ? 1 : "any",
        placeholder: shown(end),
        value: value(operator) ?? "",
        "aria-label": `${column.name}, ${word}`,
      }),
    }));
    const row = make("div", { class: "span" }, ends[0].input, make("i", {}, "to"), ends[1].input);
    return field(column.name, row, () =>
      ends
        .filter(({ input }) => input.value !== "" && Number.isFinite(Number(input.value)))
        .map(({ operator, input }) => [column.name, operator, Number(input.value)]),
    );
  }
  if (column.kind === "choice") {
    const chosen = new Set([value("in") ?? value("=") ?? []].flat());
    const boxes = column.values.map(({ value, count }) => ({
      value,
      input: make("input", { type: "checkbox", checked: chosen.has(value) }),
      count,
    }));
    const row = make(
      "div",
      { class: "choices" },
      ...boxes.map((one) =>
        make("label", {}, one.input, one.value === "" ? "(empty)" : one.value, " ", make("small", {}, number(one.count))),
      ),
    );
    return field(column.name, row, () => {
      const wanted = boxes.filter((one) => one.input.checked).map((one) => one.value);
      return wanted.length ? [[column.name, "in", wanted]] : [];
    });
  }
  if (column.kind === "truth") {
    const name = `truth-${serial++}`;
    const boxes = [
      [undefined, "any"],
      [true, "yes"],
      [false, "no"],
    ].map(([meant, word]) => ({
      meant,
      word,
      input: make("input", { type: "radio", name, checked: value("=") === meant }),
    }));
    const row = make("div", { class: "choices" }, ...boxes.map((one) => make("label", {}, one.input, one.word)));
    return field(column.name, row, () => {
      const found = boxes.find((one) => one.input.checked);
      return found?.meant === undefined ? [] : [[column.name, "=", found.meant]];
    });
  }
  const input = make("input", {
    type: "text",
    placeholder: "contains",
    maxlength: 1000,
    value: value("contains") ?? "",
    "aria-label": `${column.name} contains`,
  });
  return field(column.name, input, () => (input.value.trim() ? [[column.name, "contains", input.value.trim()]] : []));
}

const field = (name, content, read) => ({
  element: make("fieldset", {}, make("legend", {}, name), content),
  read,
});
