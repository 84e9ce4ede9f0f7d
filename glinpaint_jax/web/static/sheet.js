// The photograph and the painted mask on it: drawing, zoom and position.

const MAX_SIDE = 4096; // of the mask: larger photographs are painted at this size
const MAX_ZOOM = 16; // screen pixels per pixel of the mask

export class Sheet {
  constructor(stage) {
    this.stage = stage;
    this.element = stage.querySelector("#sheet");
    this.pictures = stage.querySelector("#pictures");
    this.canvas = stage.querySelector("#mask");
    this.context = this.canvas.getContext("2d");
    Object.assign(this, { color: "#ff2d78", scale: 1, x: 0, y: 0, fitted: true, onzoom() {} });
    new ResizeObserver(() => this.fitted && this.fit()).observe(stage);
  }

  get width() { return this.canvas.width; }
  get height() { return this.canvas.height; }

  // The original, if it is another photograph, is shown while Before is held.
  show(photo, original) {
    const shrink = Math.min(1, MAX_SIDE / Math.max(photo.width, photo.height));
    const [width, height] = [photo.width, photo.height].map((side) => Math.ceil(side * shrink));
    this.pictures.replaceChildren(photo.image, original.image);
    this.element.hidden = false;
    if (width === this.width && height === this.height) return;
    Object.assign(this.canvas, { width, height });
    this.fit();
  }

  draw(marks) {
    this.context.clearRect(0, 0, this.width, this.height);
    for (const mark of marks) {
      if (mark.kind === "mask") this.context.drawImage(mark.image, 0, 0, this.width, this.height);
      else this.drawStroke(mark, 0);
    }
    tint(this.context, this.color); // masks are white
  }

  // Draws a stroke from its point number `from` on. Chromium draws no line from a point to itself,
  // so a click is the circle at the start.
  drawStroke({ points, width, erase }, from) {
    const { context } = this;
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = this.color;
    context.lineCap = context.lineJoin = "round";
    context.lineWidth = width;
    context.beginPath();
    context.arc(...points[from], width / 2, 0, 2 * Math.PI);
    context.fill();
    context.beginPath();
    for (const point of points.slice(from)) context.lineTo(...point);
    context.stroke();
    context.globalCompositeOperation = "source-over";
  }

  // The mask as a PNG: white on black.
  async toFile(width, height, name) {
    const canvas = new OffscreenCanvas(width, height);
    const context = canvas.getContext("2d");
    context.drawImage(this.canvas, 0, 0, width, height);
    tint(context, "white");
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "black";
    context.fillRect(0, 0, width, height);
    return new File([await canvas.convertToBlob()], name);
  }

  toSheet(x, y) { return [(x - this.x) / this.scale, (y - this.y) / this.scale]; }

  fit() {
    const { clientWidth, clientHeight } = this.stage;
    const margin = Math.min(24, clientWidth / 40);
    const room = [clientWidth - 2 * margin, clientHeight - 2 * margin];
    const scale = Math.min(room[0] / this.width, room[1] / this.height, 4);
    this.place(scale, (clientWidth - this.width * scale) / 2, (clientHeight - this.height * scale) / 2);
    this.fitted = true;
  }

  // Zooms by `factor` around a point of the stage, by default its middle.
  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, 0.02), MAX_ZOOM);
    const ratio = scale / this.scale;
    this.place(scale, x - (x - this.x) * ratio, y - (y - this.y) * ratio);
  }

  pan(dx, dy) { this.place(this.scale, this.x + dx, this.y + dy); }

  place(scale, x, y) {
    if (this.element.hidden) return;
    const { clientWidth, clientHeight } = this.stage;
    const kept = 40; // pixels that stay in sight
    this.fitted = false;
    this.scale = scale;
    this.x = Math.min(Math.max(x, kept - this.width * scale), clientWidth - kept);
    this.y = Math.min(Math.max(y, kept - this.height * scale), clientHeight - kept);
    Object.assign(this.element.style, {
      width: `${this.width}px`,
      height: `${this.height}px`,
      transform: `translate(${this.x}px, ${this.y}px) scale(${scale})`,
    });
    this.element.style.setProperty("--pixel", `${1 / scale}px`);
    this.element.classList.toggle("close", scale > 4);
    this.onzoom();
  }
}

function tint(context, color) {
  context.globalCompositeOperation = "source-in";
  context.fillStyle = color;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
  context.globalCompositeOperation = "source-over";
}
