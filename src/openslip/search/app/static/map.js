// The collection as a map: a dot for each picture, and pictures themselves where there is room for them.

import { reduced } from "./dom.js";

const CELL = 52; // pixels of a cell's side at least, twice as many at most; each cell shows one picture
const KEPT = 700; // pictures in memory
const NEAR = 22; // pixels from a click to the picture that is meant

export class PictureMap {
  /** open(row): a picture was chosen. moved(at): the map was moved, to [x, y, pixels for 1]. */
  constructor(canvas, { open, moved }) {
    this.canvas = canvas;
    this.open = open;
    this.moved = moved;
    this.context = canvas.getContext("2d");
    this.points = null;
    this.marked = new Set();
    this.images = new Map();
    this.drawn = [];
    this.at = null;
    this.hover = -1;
    this.pointers = new Map();
    new ResizeObserver(() => this.resize()).observe(canvas);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, (event) => this.up(event));
    canvas.addEventListener("pointerleave", () => this.point(-1));
    canvas.addEventListener("dblclick", (event) => this.zoom(2, event.offsetX, event.offsetY));
    canvas.addEventListener("keydown", (event) => this.key(event));
    canvas.addEventListener("focus", () => this.draw());
    canvas.addEventListener("blur", () => this.draw());
    canvas.addEventListener(
      "wheel",
      (event) => {
        event.preventDefault();
        const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
        this.zoom(Math.exp(-Math.max(-400, Math.min(400, pixels)) / 350), event.offsetX, event.offsetY);
      },
      { passive: false },
    );
  }

  /** Show points {rows, x, y}; at: where the map was, or null. */
  show(points, version, at) {
    this.points = points;
    this.version = version;
    this.index = new Map(points.rows.map((row, number) => [row, number]));
    this.resize();
    if (at) this.at = [...at];
    this.draw();
  }

  /** Mark the pictures of these rows. */
  mark(rows) {
    this.marked = new Set(rows.map((row) => this.index?.get(row)).filter((one) => one !== undefined));
    this.draw();
  }

  /** Go to the picture of a row; return whether it is on the map. */
  goTo(row) {
    const number = this.index?.get(row);
    if (number === undefined) return false;
    this.resize();
    this.at = [this.points.x[number], this.points.y[number], Math.max(this.at[2], this.whole() * 8)];
    this.told();
    this.draw();
    return true;
  }

  whole() {
    return Math.max(1, Math.min(this.width, this.height) * 0.8);
  }

  all() {
    this.at = [0.5, 0.5, this.whole()];
    this.told();
    this.draw();
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    const first = !this.at;
    [this.width, this.height, this.ratio] = [width, height, Math.min(2, devicePixelRatio || 1)];
    this.canvas.width = width * this.ratio;
    this.canvas.height = height * this.ratio;
    if (first) this.at = [0.5, 0.5, this.whole()];
    this.paint();
  }

  /** Where a point is on the canvas: y goes up on the map. */
  place(number) {
    const [x, y, scale] = this.at;
    return [
      (this.points.x[number] - x) * scale + this.width / 2,
      (y - this.points.y[number]) * scale + this.height / 2,
    ];
  }

  zoom(factor, left = this.width / 2, top = this.height / 2) {
    const [x, y, scale] = this.at;
    const next = Math.max(this.whole() * 0.5, Math.min(this.whole() * 4000, scale * factor));
    const shift = 1 / scale - 1 / next;
    this.at = [x + (left - this.width / 2) * shift, y - (top - this.height / 2) * shift, next];
    this.told();
    this.draw();
  }

  pan(right, down) {
    const [x, y, scale] = this.at;
    const inside = (value) => Math.max(-0.5, Math.min(1.5, value));
    this.at = [inside(x - right / scale), inside(y + down / scale), scale];
    this.told();
    this.draw();
  }

  told() {
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.moved([...this.at]), 250);
  }

  draw() {
    if (!this.frame) {
      this.frame = requestAnimationFrame(() => {
        this.frame = 0;
        this.paint();
      });
    }
  }

  paint() {
    if (!this.points || !this.at || !this.width) return;
    const context = this.context;
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [ink, accent] = [colour("--quiet"), colour("--c0")];
    context.setTransform(this.ratio, 0, 0, this.ratio, 0, 0);
    context.clearRect(0, 0, this.width, this.height);
    const zoomed = this.at[2] / this.whole();
    const size = Math.min(5, Math.max(1.6, 1.6 * Math.sqrt(zoomed)));
    const seen = this.seen();
    context.fillStyle = ink;
    context.globalAlpha = Math.min(0.7, Math.max(0.3, 900 / (seen.length + 1)));
    for (const [, left, top] of seen) context.fillRect(left - size / 2, top - size / 2, size, size);
    context.globalAlpha = 1;
    this.drawn = this.chosen(seen);
    this.fetched = 0;
    context.fillStyle = accent;
    for (const [number, left, top] of seen) {
      if (this.marked.has(number)) {
        context.beginPath();
        context.arc(left, top, 4.5, 0, 7);
        context.fill();
      }
    }
    for (const [number, left, top, side] of this.drawn) this.picture(number, left, top, side, accent);
    const ring = this.hover >= 0 ? this.hover : this.canvas.matches(":focus-visible") ? this.nearest(this.width / 2, this.height / 2, Infinity) : -1;
    if (ring >= 0) {
      const [left, top] = this.place(ring);
      const side = this.drawn.find((one) => one[0] === ring)?.[3] ?? 12;
      context.strokeStyle = accent;
      context.lineWidth = 2.5;
      context.beginPath();
      context.roundRect(left - side / 2 - 2, top - side / 2 - 2, side + 4, side + 4, Math.min(10, side / 2));
      context.stroke();
    }
    while (this.images.size > KEPT) this.images.delete(this.images.keys().next().value);
  }

  /** The points on the canvas and a little around it: [number, left, top]. */
  seen() {
    const found = [];
    const edge = 2 * CELL;
    for (let number = 0; number < this.points.rows.length; number++) {
      const [left, top] = this.place(number);
      if (left > -edge && top > -edge && left < this.width + edge && top < this.height + edge) {
        found.push([number, left, top]);
      }
    }
    return found;
  }

  /**
   * The points that are shown as pictures, with their sides: one in each cell of a grid that is fixed to the map, so
   * that pictures stay while the map is moved. Marked ones come first; no picture covers another.
   */
  chosen(seen) {
    const level = Math.ceil(Math.log2(CELL / this.at[2]));
    const cell = 2 ** level;
    const side = Math.round(cell * this.at[2] * 0.72);
    const cells = new Map();
    const near = (column, row, left, top) => {
      for (let i = -1; i <= 1; i++) {
        for (let j = -1; j <= 1; j++) {
          const other = cells.get(`${column + i} ${row + j}`);
          if (other && Math.max(Math.abs(other[1] - left), Math.abs(other[2] - top)) < side + 3) return true;
        }
      }
      return false;
    };
    const first = seen.filter(([number]) => this.marked.has(number));
    for (const [number, left, top] of [...first, ...seen]) {
      const [column, row] = [Math.floor(this.points.x[number] / cell), Math.floor(this.points.y[number] / cell)];
      if (!cells.has(`${column} ${row}`) && !near(column, row, left, top)) {
        cells.set(`${column} ${row}`, [number, left, top, side]);
      }
    }
    return [...cells.values()];
  }

  picture(number, left, top, side, accent) {
    const row = this.points.rows[number];
    let image = this.images.get(row);
    if (!image && this.fetched < 60) {
      this.fetched += 1;
      image = new Image();
      image.decoding = "async";
      image.onload = () => this.draw();
      image.src = `/thumbnail/${row}?v=${this.version}`;
    }
    if (!image) return this.draw(); // in the next frame
    this.images.delete(row);
    this.images.set(row, image); // the last images are those that were used last
    if (!image.complete || !image.naturalWidth) return;
    const context = this.context;
    const [x, y] = [left - side / 2, top - side / 2];
    const whole = Math.min(image.naturalWidth, image.naturalHeight);
    const [cutX, cutY] = [(image.naturalWidth - whole) / 2, (image.naturalHeight - whole) / 2];
    context.save();
    context.beginPath();
    context.roundRect(x, y, side, side, 7);
    context.clip();
    context.drawImage(image, cutX, cutY, whole, whole, x, y, side, side);
    context.restore();
    if (this.marked.has(number)) {
      context.strokeStyle = accent;
      context.lineWidth = 2.5;
      context.beginPath();
      context.roundRect(x, y, side, side, 7);
      context.stroke();
    }
  }

  /** The point at a place, -1 if none is near: of the picture there, else of the nearest dot. */
  nearest(left, top, within = NEAR) {
    for (const [number, x, y, side] of this.drawn) {
      if (Math.abs(x - left) <= side / 2 && Math.abs(y - top) <= side / 2) return number;
    }
    let [best, least] = [-1, within * within];
    for (let number = 0; number < this.points.rows.length; number++) {
      const [x, y] = this.place(number);
      const far = (x - left) ** 2 + (y - top) ** 2;
      if (far < least) [best, least] = [number, far];
    }
    return best;
  }

  point(number) {
    if (number === this.hover) return;
    this.hover = number;
    this.canvas.classList.toggle("over", number >= 0);
    this.draw();
  }

  down(event) {
    this.canvas.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, [event.offsetX, event.offsetY]);
    this.start = this.pointers.size === 1 ? [event.offsetX, event.offsetY] : null;
    this.canvas.classList.add("moving");
  }

  move(event) {
    if (!this.points) return;
    const here = [event.offsetX, event.offsetY];
    const before = this.pointers.get(event.pointerId);
    if (!before) {
      if (event.pointerType === "mouse") this.point(this.nearest(...here));
      return;
    }
    if (this.start && Math.hypot(here[0] - this.start[0], here[1] - this.start[1]) > 5) this.start = null;
    if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const apart = (one) => Math.hypot(one[0] - other[0], one[1] - other[1]);
      if (apart(before) > 0) this.zoom(apart(here) / apart(before), (here[0] + other[0]) / 2, (here[1] + other[1]) / 2);
    }
    const share = this.pointers.size;
    this.pan((here[0] - before[0]) / share, (here[1] - before[1]) / share);
    this.pointers.set(event.pointerId, here);
  }

  up(event) {
    const here = this.pointers.get(event.pointerId);
    this.pointers.delete(event.pointerId);
    this.canvas.classList.toggle("moving", this.pointers.size > 0);
    if (!here || !this.start || event.type === "pointercancel" || !this.points) return;
    this.start = null;
    const number = this.nearest(...here, event.pointerType === "mouse" ? NEAR : 1.6 * NEAR);
    if (number >= 0) this.open(this.points.rows[number]);
  }

  key(event) {
    if (!this.points || event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 240 : 80;
    const ways = { ArrowLeft: [step, 0], ArrowRight: [-step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] };
    if (ways[event.key]) this.pan(...ways[event.key]);
    else if (event.key === "+" || event.key === "=") this.zoom(1.5);
    else if (event.key === "-") this.zoom(1 / 1.5);
    else if (event.key === "0") this.all();
    else if (event.key === "Enter" || event.key === " ") {
      const number = this.nearest(this.width / 2, this.height / 2, Infinity);
      if (number >= 0) this.open(this.points.rows[number]);
    } else return;
    event.preventDefault();
  }

  /** Come closer or go away in a few frames, or at once where motion is not wanted. */
  glide(factor) {
    if (reduced()) return this.zoom(factor);
    let left = 8;
    const step = () => {
      this.zoom(factor ** (1 / 8));
      if (--left > 0) requestAnimationFrame(step);
    };
    step();
  }
}
