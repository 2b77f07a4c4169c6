// One picture in full size, with its whole record.

import { ask } from "./api.js";
import { $, make, shown } from "./dom.js";

export class Viewer {
  /** act(name, hit): "more", "less", "only" or "map". next(hit, step): the hit before or behind one, if there is one. */
  constructor(act, next) {
    this.dialog = $("viewer");
    this.next = next;
    this.dialog.querySelector(".close").addEventListener("click", () => this.dialog.close());
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    this.dialog.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      const hit = step && this.next(this.hit, step);
      if (hit) this.show(hit, this.version);
    });
    for (const button of this.dialog.querySelectorAll("[data-act]")) {
      button.addEventListener("click", () => {
        this.dialog.close();
        act(button.dataset.act, this.hit);
      });
    }
    $("whole").addEventListener("error", () => this.missing());
  }

  show(hit, version) {
    this.hit = hit;
    this.version = version;
    const [first, ...others] = hit.captions.filter((one) => one.trim());
    $("viewed").textContent = first ?? hit.key;
    $("place").textContent = hit.score === null ? "" : `Score ${hit.score.toFixed(4)}`;
    $("captions").replaceChildren(...others.map((one) => make("li", { dir: "auto" }, one)));
    const fields = [...Object.entries(hit.columns), ["key", hit.key], ["file", hit.path], ["row", hit.row]];
    $("fields").replaceChildren(
      ...fields
        .filter(([, value]) => value !== null && value !== "")
        .flatMap(([name, value]) => [make("dt", {}, name), make("dd", { dir: "auto" }, shown(value))]),
    );
    $("gone").hidden = true;
    $("whole").hidden = false;
    $("whole").alt = first ?? hit.key;
    $("whole").src = `/picture/${hit.row}?v=${version}`;
    if (!this.dialog.open) this.dialog.showModal();
  }

  /** Show why a picture cannot be shown, because an image element does not tell. */
  async missing() {
    const row = this.hit.row;
    let why = "This picture cannot be shown.";
    try {
      await ask(`/picture/${row}`);
    } catch (error) {
      why = error.message;
    }
    if (row !== this.hit.row) return;
    $("whole").hidden = true;
    $("gone").hidden = false;
    $("gone").textContent = why;
  }
}
