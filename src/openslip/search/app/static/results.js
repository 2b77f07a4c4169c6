// The pictures that were found, as a grid that arrow keys walk through.

import { $, icon, make, shown } from "./dom.js";

const FIELDS = 4;

export class Results {
  /** act(name, hit): "open", "more" or "less". */
  constructor(act) {
    this.act = act;
    this.hits = [];
    this.grid = $("grid");
    this.grid.addEventListener("keydown", (event) => this.key(event));
    this.grid.addEventListener("focusin", (event) => this.become(event.target.closest(".hit")));
  }

  /** Show hits, in the place of those before or behind them. */
  show(hits, version, behind = false) {
    const before = document.activeElement?.closest?.(".hit")?.dataset.row;
    const first = this.hits.length;
    this.hits = behind ? [...this.hits, ...hits] : hits;
    const made = hits.map((hit) => this.tile(hit, version));
    if (behind) this.grid.append(...made);
    else this.grid.replaceChildren(...made);
    const here = [...this.grid.children];
    this.become(behind ? here[first] : here[0]);
    if (behind) here[first]?.querySelector(".open").focus({ preventScroll: true });
    else if (before !== undefined) {
      (here.find((tile) => tile.dataset.row === before) ?? here[0])?.querySelector(".open").focus();
    }
  }

  focus() {
    this.grid.querySelector('.open[tabindex="0"]')?.focus();
  }

  tile(hit, version) {
    const caption = hit.captions.find((one) => one.trim()) ?? "";
    const name = caption || hit.key;
    const fields = Object.values(hit.columns).map(shown).filter(Boolean).slice(0, FIELDS).join(" · ");
    const score = hit.score === null ? "" : `, score ${hit.score.toFixed(3)}`;
    const image = make("img", { src: `/thumbnail/${hit.row}?v=${version}`, alt: "", loading: "lazy", decoding: "async" });
    image.addEventListener("error", () => image.replaceWith(make("span", {}, "This picture cannot be shown")));
    const button = (kind, words) =>
      make(
        "button",
        {
          type: "button",
          class: kind,
          tabindex: -1,
          title: `${words} (${kind[0]})`,
          "aria-label": `${words}: ${name}`,
          onclick: () => this.act(kind, hit),
        },
        icon(kind === "more" ? "plus" : "minus"),
      );
    const bar = make("i", {}, make("b"));
    bar.firstChild.style.width = `${Math.max(0, Math.min(1, hit.score ?? 0)) * 100}%`;
    return make(
      "li",
      { class: "hit", "data-row": hit.row },
      make(
        "button",
        { type: "button", class: "open", tabindex: -1, "aria-label": `${name}${score}`, onclick: () => this.act("open", hit) },
        image,
      ),
      make(
        "div",
        { class: "line" },
        hit.score === null ? make("span") : make("span", { class: "score", title: "Cosine similarity" }, hit.score.toFixed(3), bar),
        make("span", { class: "nudge" }, button("more", "More like this"), button("less", "Less like this")),
      ),
      make("p", { class: "caption", dir: "auto", title: name }, name),
      fields ? make("p", { class: "fields", dir: "auto", title: fields }, fields) : null,
    );
  }

  /** Make one tile the one that Tab reaches. */
  become(tile) {
    if (!tile) return;
    for (const one of this.grid.querySelectorAll('[tabindex="0"]')) one.tabIndex = -1;
    for (const one of tile.querySelectorAll("button")) one.tabIndex = 0;
  }

  key(event) {
    const tile = event.target.closest(".hit");
    if (!tile || event.ctrlKey || event.metaKey || event.altKey) return;
    const tiles = [...this.grid.children];
    const here = tiles.indexOf(tile);
    const columns = tiles.filter((one) => one.offsetTop === tiles[0].offsetTop).length;
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key];
    if (step !== undefined || event.key === "Home" || event.key === "End") {
      event.preventDefault();
      let next = event.key === "Home" ? 0 : event.key === "End" ? tiles.length - 1 : here + step;
      if (event.key === "ArrowUp" && next < 0) return $("text").focus();
      if (next >= tiles.length) next = event.key === "ArrowDown" ? tiles.length - 1 : here;
      tiles[Math.max(0, next)].querySelector(".open").focus();
    } else if (event.key === "m" || event.key === "+") {
      this.act("more", this.hits[here]);
    } else if (event.key === "l" || event.key === "-") {
      this.act("less", this.hits[here]);
    }
  }
}
