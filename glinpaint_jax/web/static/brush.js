// Painting, panning and zooming with a mouse, a pen, fingers or the keyboard.

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1], Enter: [0, 0] };

export class Brush {
  // `add` is called with each finished stroke; `mayPaint` says whether one may begin.
  constructor(sheet, mayPaint, add, redraw) {
    Object.assign(this, { sheet, mayPaint, add, redraw });
    this.stage = sheet.stage;
    this.cursor = this.stage.querySelector("#cursor");
    this.size = 40; // screen pixels, at every zoom; `at` is the cursor's place on the stage
    Object.assign(this, { erase: false, space: false, stroke: null, pointers: new Map(), at: null });
    for (const name of ["pointerdown", "pointermove", "pointerup", "pointercancel", "pointerleave", "wheel"]) {
      this.stage.addEventListener(name, (event) => this[name](event), { passive: false });
    }
    this.stage.addEventListener("blur", () => this.hideCursor());
  }

  resize(size) {
    this.size = size;
    if (this.at) this.showCursor(this.at);
  }

  pointerdown(event) {
    if (event.target.closest("button, #error") || this.sheet.element.hidden) return;
    if (event.button === 1) event.preventDefault(); // Windows would scroll
    this.stage.setPointerCapture(event.pointerId);
    const place = this.place(event);
    this.pointers.set(event.pointerId, place);
    if (this.pointers.size > 1) this.drop(); // a second finger: zoom instead
    else if (event.button === 0 && !this.space && this.mayPaint()) {
      this.begin(place);
      this.showCursor(place);
    }
  }

  pointermove(event) {
    const place = this.place(event);
    const before = this.pointers.get(event.pointerId);
    if (event.pointerType !== "touch" || this.stroke) this.showCursor(place);
    if (!before) return;
    this.pointers.set(event.pointerId, place);
    if (this.stroke) {
      const steps = event.getCoalescedEvents?.() ?? [];
      this.extend((steps.length ? steps : [event]).map((step) => this.place(step)));
    } else if (this.pointers.size === 2) {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)[1];
      const distance = (a) => Math.max(Math.hypot(a[0] - other[0], a[1] - other[1]), 1);
      this.sheet.zoom(distance(place) / distance(before), (before[0] + other[0]) / 2, (before[1] + other[1]) / 2);
      this.sheet.pan((place[0] - before[0]) / 2, (place[1] - before[1]) / 2);
    } else {
      this.sheet.pan(place[0] - before[0], place[1] - before[1]);
    }
  }

  pointerup(event) {
    this.pointers.delete(event.pointerId);
    this.end();
    if (event.pointerType === "touch") this.hideCursor();
  }

  pointercancel(event) {
    this.drop();
    this.pointerup(event);
  }

  pointerleave() { if (!this.stroke) this.hideCursor(); }

  wheel(event) {
    event.preventDefault();
    const pixels = event.deltaY * (event.deltaMode ? 30 : 1);
    this.sheet.zoom(Math.exp(-Math.max(-100, Math.min(100, pixels)) / 400), ...this.place(event));
  }

  // Arrow keys move the brush by half its size, with Shift painting; Enter paints a dot.
  key(event) {
    const step = STEPS[event.key];
    if (!step) return false;
    if (!this.mayPaint()) return true;
    const room = [this.stage.clientWidth, this.stage.clientHeight];
    const from = this.at ?? room.map((side) => side / 2);
    const to = from.map((at, axis) => Math.min(Math.max(at + step[axis] * this.size / 2, 0), room[axis]));
    if (event.shiftKey || event.key === "Enter") {
      this.begin(from);
      this.extend([to]);
      this.end();
    }
    this.showCursor(to);
    return true;
  }

  // While Space is held, dragging moves the photograph.
  pan(on) {
    this.space = on;
    this.stage.classList.toggle("pans", on);
    if (on) this.hideCursor();
  }

  begin(place) {
    const width = this.size / this.sheet.scale;
    this.stroke = { kind: "stroke", points: [this.sheet.toSheet(...place)], width, erase: this.erase };
    this.sheet.drawStroke(this.stroke, 0);
  }

  extend(places) {
    const { points } = this.stroke;
    points.push(...places.map((place) => this.sheet.toSheet(...place)));
    this.sheet.drawStroke(this.stroke, points.length - places.length - 1);
  }

  end() {
    const stroke = this.stroke;
    this.stroke = null;
    if (stroke) this.add(stroke);
  }

  drop() {
    if (this.stroke) this.redraw();
    this.stroke = null;
  }

  place(event) {
    const { left, top } = this.stage.getBoundingClientRect();
    return [event.clientX - left, event.clientY - top];
  }

  showCursor(place) {
    this.at = place;
    this.cursor.hidden = !this.mayPaint() || this.space;
    const side = `${this.size}px`;
    Object.assign(this.cursor.style, { left: `${place[0]}px`, top: `${place[1]}px`, width: side, height: side });
  }

  hideCursor() { this.cursor.hidden = true; }
}
