// The page: buttons, keys, files, and what happens when.

import { Refusal, complete, openPhoto, send } from "./api.js";
import { Brush } from "./brush.js";
import { History } from "./history.js";
import { listenToFiles, listenToKeys } from "./keys.js";
import { Methods } from "./methods.js";
import { Sheet, makeMask } from "./sheet.js";

const HINT = "Paint over what should go, then press Complete.";
const find = (id) => document.getElementById(id);
const stage = find("stage");
const history = new History();
const sheet = new Sheet(stage);
const methods = new Methods(find("method"));
const brush = new Brush(sheet, () => Boolean(history.photo) && !running, addMark, drawMarks);
let running = null; // the AbortController of what the page waits for
let maskFile = null; // the last one opened
let downloaded = null; // the last photograph downloaded

function drawMarks() { sheet.draw(history.marks); }

function addMark(mark) {
  history.add(mark);
  update();
}

// Shows the state of the history.
async function refresh() {
  await sheet.show(history.photo, history.original);
  drawMarks();
  update();
}

function update() {
  const { photo, original, marks } = history;
  const busy = Boolean(running);
  find("empty").hidden = Boolean(photo);
  find("name").textContent = photo ? `${original.file.name} · ${photo.width} x ${photo.height}` : "";
  find("undo").disabled = busy || !history.canUndo;
  find("redo").disabled = busy || !history.canRedo;
  find("restart").disabled = busy || !photo || (photo === original && !marks.length);
  find("compare").disabled = !photo || photo === original;
  find("download").disabled = busy || !photo || photo === original;
  find("download").classList.toggle("primary", Boolean(photo) && photo !== original && !marks.length);
  find("complete").disabled = busy || !photo;
  find("open-mask").disabled = busy || !photo;
  find("save-mask").disabled = busy || !marks.length;
  for (const id of ["open", "first", "method"]) find(id).disabled = busy;
  for (const id of ["zoom-in", "zoom-out", "fit"]) find(id).disabled = !photo;
  find("cancel").hidden = !busy;
  stage.setAttribute("aria-busy", busy);
  stage.classList.toggle("paints", Boolean(photo) && !busy);
  brush.cursor.hidden ||= busy;
  if (!busy && photo) say(marks.length ? HINT : photo.summary ?? HINT);
}

function say(text) {
  if (find("status").textContent !== text) find("status").textContent = text; // else read aloud again
}

function fail(text) {
  find("error").hidden = !text;
  find("error").querySelector("p").textContent = text;
}

// Runs `work(signal)` with `text()` and the seconds in the status line. Shows what goes wrong.
async function wait(text, work) {
  if (running) return;
  fail("");
  const control = (running = new AbortController());
  const started = Date.now();
  const tick = () => {
    const seconds = Math.floor((Date.now() - started) / 1000);
    say(`${text()} …`);
    find("seconds").textContent = seconds > 1 ? `${seconds} s` : "";
  };
  update();
  tick();
  const timer = setInterval(tick, 500);
  try {
    await work(control.signal);
  } catch (error) {
    if (error.name !== "AbortError") fail(error.message);
    if (error.name !== "AbortError" && !(error instanceof Refusal)) throw error;
  } finally {
    clearInterval(timer);
    find("seconds").textContent = "";
    running = null;
    update();
    if (!history.photo) say("Open a photograph, paint over what should go, press Complete.");
  }
}

// A copy, because the file on the disk may change. Refuses what the server would refuse.
async function read(file) {
  const size = file.size / 1e6;
  if (size > methods.megabytes) {
    throw new Refusal(`${file.name} has ${size.toFixed(1)} MB, at most ${methods.megabytes} are allowed; make it smaller.`);
  }
  return new File([await file.arrayBuffer()], file.name || "photo.png");
}

function open(file) {
  if (!file) return;
  return wait(() => `Opening ${file.name}`, async (signal) => {
    const photo = await openPhoto(await read(file), signal);
    history.add({ ...photo, opened: true });
    await refresh();
    sheet.fit();
  });
}

function openMask(file, again = false) {
  if (!file) return;
  return wait(() => `Opening ${file.name}`, async (signal) => {
    const mask = await read(file);
    const options = { invert_mask: Number(find("invert").checked), dilate_mask: find("grow").value || 0 };
    const response = await send("mask", { photo: history.photo.file, mask, ...options }, signal);
    const mark = await makeMask(await response.blob());
    if (again) history.undo();
    history.add(Object.assign(mark, { file }));
    maskFile = file;
    await refresh();
  });
}

// Changed options apply to a mask file that has just been opened.
function reopenMask() {
  if (history.last?.kind === "mask" && history.last.file === maskFile) openMask(maskFile, true);
}

function fill() {
  const { photo, marks } = history;
  if (!photo || running) return;
  if (!marks.length) return fail("There is no hole yet; paint over what should go, or open a mask under More.");
  return wait(() => `Filling with ${methods.title}`, async (signal) => {
    const fields = {
      photo: photo.file,
      mask: await sheet.toFile(sheet.width, sheet.height, "mask.png"),
      method: methods.chosen,
      blend: find("blend").value,
      scale: find("scale").value,
      resize_mask: Number(photo.width !== sheet.width),
    };
    const { file, summary } = await complete(fields, signal);
    const completed = await openPhoto(file, signal);
    history.add({ ...completed, summary });
    await refresh();
  });
}

function restart() {
  const { original } = history;
  history.add({ ...original });
  refresh();
}

function move(direction) {
  if (running || brush.stroke) return;
  history[direction]();
  if (history.photo) refresh();
}

function save(file) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function download() {
  downloaded = history.photo;
  save(downloaded.file);
}

async function saveMask() {
  const { photo, original } = history;
  const stem = original.file.name.replace(/\.[^.]*$/, "");
  save(await sheet.toFile(photo.width, photo.height, `${stem}-mask.png`));
}

function compare(held) {
  const shown = held && !find("compare").disabled;
  sheet.before.hidden = find("badge").hidden = !shown;
  find("compare").classList.toggle("held", shown);
  sheet.canvas.hidden = shown;
}

// --- events

function setTool(erase) {
  brush.erase = erase;
  find("brush").setAttribute("aria-pressed", !erase);
  find("eraser").setAttribute("aria-pressed", erase);
}

function setSize(size) {
  brush.resize(size);
  find("size").value = find("size-shown").textContent = brush.size;
}

const CLICKS = {
  open: () => find("photo-file").click(),
  first: () => find("photo-file").click(),
  restart,
  download,
  brush: () => setTool(false),
  eraser: () => setTool(true),
  undo: () => move("undo"),
  redo: () => move("redo"),
  "zoom-in": () => sheet.zoom(1.5),
  "zoom-out": () => sheet.zoom(1 / 1.5),
  fit: () => sheet.fit(),
  complete: fill,
  cancel: () => running?.abort(),
  "open-mask": () => find("mask-file").click(),
  "save-mask": saveMask,
  more: () => {
    find("options").hidden = !find("options").hidden;
    find("more").setAttribute("aria-expanded", !find("options").hidden);
  },
};
for (const [id, act] of Object.entries(CLICKS)) {
  find(id).addEventListener("click", (event) => {
    if (event.detail) find(id).blur(); // by a pointer: Space then pans, instead of clicking again
    act();
  });
}
find("error").querySelector("button").addEventListener("click", () => fail(""));
find("size").addEventListener("input", (event) => setSize(Number(event.target.value)));
find("method").addEventListener("change", (event) => methods.choose(event.target.value, wait));
for (const id of ["invert", "grow"]) find(id).addEventListener("change", reopenMask);
for (const [id, act] of [["photo-file", open], ["mask-file", openMask]]) {
  find(id).addEventListener("change", ({ target }) => {
    act(target.files[0]);
    target.value = ""; // the same file may be chosen again
  });
}
sheet.onzoom = () => {
  const { photo } = history;
  if (photo) find("fit").textContent = `${Math.round(100 * sheet.scale * sheet.width / photo.width)} %`;
};

const held = find("compare");
held.addEventListener("pointerdown", (event) => {
  held.setPointerCapture(event.pointerId);
  compare(true);
});
for (const name of ["pointerup", "pointercancel", "blur", "keyup"]) held.addEventListener(name, () => compare(false));
held.addEventListener("keydown", (event) => compare([" ", "Enter"].includes(event.key)));
held.addEventListener("contextmenu", (event) => event.preventDefault());

const KEYS = {
  b: CLICKS.brush,
  e: CLICKS.eraser,
  c: () => compare(true),
  "[": () => setSize(brush.size / 1.2 - 1),
  "]": () => setSize(brush.size * 1.2 + 1),
  "+": CLICKS["zoom-in"],
  "=": CLICKS["zoom-in"],
  "-": CLICKS["zoom-out"],
  0: CLICKS.fit,
  Escape: () => (running ? running.abort() : fail("")),
};
const CONTROL_KEYS = {
  z: (event) => move(event.shiftKey ? "redo" : "undo"),
  y: () => move("redo"),
  o: CLICKS.open,
  s: () => find("download").disabled || download(),
  Enter: fill,
};
listenToKeys({
  keys: KEYS,
  controlKeys: CONTROL_KEYS,
  stage,
  brush,
  release: (key) => ["c", null].includes(key) && compare(false),
});
listenToFiles(stage, open);
window.addEventListener("beforeunload", (event) => {
  const { photo, original } = history;
  if (photo && photo !== original && photo !== downloaded) event.preventDefault();
});

await methods.load();
find("limits").textContent =
  `JPEG, PNG, WebP, TIFF or BMP, up to ${methods.megapixels} megapixels and ${methods.megabytes} MB. The server keeps no copy.`;
document.documentElement.dataset.ready = "";
