// The photograph and the painted mask on it: drawing, zoom and position.

const COLOUR = "#ff2d78";
const MAX_ZOOM = 16; // screen pixels per pixel of the preview

export class Sheet {
  constructor(stage) {
    this.stage = stage;
    this.element = stage.querySelector("#sheet");
    this.after = stage.querySelector("#after");
    this.before = stage.querySelector("#before");
    this.canvas = stage.querySelector("#mask");
    this.scale = 1;
    this.x = this.y = 0;
    this.fitted = true;
    this.onzoom = () => {};
    new ResizeObserver(() => this.fitted && this.fit()).observe(stage);
  }

  get width() { return this.after.naturalWidth; }
  get height() { return this.after.naturalHeight; }

  async show(photo, original) {
    const [width, height] = [this.width, this.height];
    await load(this.after, photo.url);
    await load(this.before, original.url);
    this.element.hidden = false;
    if (this.canvas.width !== this.width || this.canvas.height !== this.height) {
      [this.canvas.width, this.canvas.height] = [this.width, this.height];
    }
    if (width !== this.width || height !== this.height) this.fit();
  }

  draw(marks) {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, this.width, this.height);
    for (const mark of marks) {
      if (mark.kind === "mask") context.drawImage(mark.image, 0, 0, this.width, this.height);
      else this.drawStroke(mark, 0);
    }
  }

  // Draws a stroke from its point number `from` on. Chromium draws no line from a point to itself,
  // so a click is the circle at the start.
  drawStroke({ points, width, erase }, from) {
    const context = this.canvas.getContext("2d");
    context.globalCompositeOperation = erase ? "destination-out" : "source-over";
    context.strokeStyle = context.fillStyle = COLOUR;
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
    const { canvas, context } = makeCanvas(width, height);
    context.drawImage(this.canvas, 0, 0, width, height);
    tint(context, "white");
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "black";
    context.fillRect(0, 0, width, height);
    return new File([await new Promise((done) => canvas.toBlob(done))], name, { type: "image/png" });
  }

  toSheet(x, y) { return [(x - this.x) / this.scale, (y - this.y) / this.scale]; }

  fit() {
    if (this.element.hidden) return;
    const { clientWidth, clientHeight } = this.stage;
    const margin = Math.min(24, clientWidth / 40);
    const room = [clientWidth - 2 * margin, clientHeight - 2 * margin];
    this.scale = Math.min(room[0] / this.width, room[1] / this.height, 4);
    this.x = (clientWidth - this.width * this.scale) / 2;
    this.y = (clientHeight - this.height * this.scale) / 2;
    this.fitted = true;
    this.place();
  }

  // Zooms by `factor` around a point of the stage, by default its middle.
  zoom(factor, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const scale = Math.min(Math.max(this.scale * factor, 0.02), MAX_ZOOM);
    this.x = x - (x - this.x) * scale / this.scale;
    this.y = y - (y - this.y) * scale / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.place();
  }

  pan(dx, dy) {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.place();
  }

  place() {
    const { clientWidth, clientHeight } = this.stage;
    const kept = 40; // pixels that stay in sight
    this.x = Math.min(Math.max(this.x, kept - this.width * this.scale), clientWidth - kept);
    this.y = Math.min(Math.max(this.y, kept - this.height * this.scale), clientHeight - kept);
    Object.assign(this.element.style, {
      width: `${this.width}px`,
      height: `${this.height}px`,
      transform: `translate(${this.x}px, ${this.y}px) scale(${this.scale})`,
    });
    this.element.classList.toggle("close", this.scale > 4);
    this.onzoom();
  }
}

async function load(image, url) {
  if (image.src === url) return;
  image.src = url;
  await image.decode();
}

function makeCanvas(width, height) {
  const canvas = Object.assign(document.createElement("canvas"), { width, height });
  return { canvas, context: canvas.getContext("2d") };
}

function tint(context, colour) {
  context.globalCompositeOperation = "source-in";
  context.fillStyle = colour;
  context.fillRect(0, 0, context.canvas.width, context.canvas.height);
}

// A mark from the server's picture of a mask file, which is transparent outside the hole.
export async function makeMask(blob) {
  const bitmap = await createImageBitmap(blob);
  const { canvas, context } = makeCanvas(bitmap.width, bitmap.height);
  context.drawImage(bitmap, 0, 0);
  tint(context, COLOUR);
  return { kind: "mask", image: canvas };
}
