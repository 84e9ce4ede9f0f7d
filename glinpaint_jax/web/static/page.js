// The page: buttons, keys, files, and what happens when.

import { Refusal, complete, openPhoto, send } from "./api.js";
import { Brush } from "./brush.js";
import { History } from "./history.js";
import { listenToFiles, listenToKeys } from "./keys.js";
import { Sheet } from "./sheet.js";

const HINT = "Paint over what should go, then press Complete.";
const find = (id) => document.getElementById(id);
const stage = find("stage");
const history = new History();
const sheet = new Sheet(stage);
const brush = new Brush(sheet, () => Boolean(history.photo) && !running, add, () => sheet.draw(history.marks));
let server = {}; // its methods and limits
let running = null; // the AbortController of what the page waits for
let downloaded = null; // the last photograph downloaded

// --- what the page shows

function add(entry) {
  history.add(entry);
  refresh();
}

function refresh() {
  sheet.show(history.photo, history.original);
  sheet.draw(history.marks);
  update();
}

function update() {
  const { photo, original, marks } = history;
  const busy = Boolean(running);
  const changed = photo !== original;
  const possible = {
    open: true, first: true, method: true, complete: photo, "open-mask": photo, "save-mask": marks.length,
    undo: history.canUndo, redo: history.canRedo, restart: changed || marks.length, download: changed,
  };
  for (const id in possible) find(id).disabled = busy || !possible[id];
  for (const id of ["zoom-in", "zoom-out", "fit"]) find(id).disabled = !photo;
  find("compare").disabled = !changed;
  find("empty").hidden = Boolean(photo);
  find("cancel").hidden = !busy;
  find("name").textContent = photo ? `${original.file.name} · ${photo.width} x ${photo.height}` : "";
  find("download").classList.toggle("primary", changed && !marks.length);
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

// Runs `work(signal)` with `text` and the seconds in the status line; shows what goes wrong.
async function wait(text, work) {
  if (running) return;
  fail("");
  running = new AbortController();
  const started = Date.now();
  const idle = find("status").textContent;
  const tick = () => {
    const seconds = Math.floor((Date.now() - started) / 1000);
    say(`${text} …`);
    find("seconds").textContent = seconds > 1 ? `${seconds} s` : "";
  };
  update();
  tick();
  const timer = setInterval(tick, 500);
  try {
    await work(running.signal);
  } catch (error) {
    if (error.name === "AbortError") return;
    fail(error.message);
    if (!(error instanceof Refusal)) throw error;
  } finally {
    clearInterval(timer);
    find("seconds").textContent = "";
    running = null;
    say(idle);
    update();
  }
}

// --- what people do

// Refuses what the server would refuse.
function check(file, amount, allowed, unit) {
  if (!(amount > allowed)) return; // also before the limits are known
  throw new Refusal(`${file.name} has ${amount.toFixed(1)} ${unit}, at most ${allowed} are allowed; make it smaller.`);
}

async function read(file) {
  check(file, file.size / 1e6, server.megabytes, "MB");
  // A copy, because the file on the disk may change.
  return new File([await file.arrayBuffer()], file.name || "photo.png", { type: file.type });
}

function open(file) {
  if (!file) return;
  return wait(`Opening ${file.name}`, async (signal) => {
    const photo = await openPhoto(await read(file), signal);
    check(file, photo.width * photo.height / 1e6, server.megapixels, "megapixels");
    add({ ...photo, opened: true });
    sheet.fit();
  });
}

// Draws a mask file, in place of `old`, the same file with other options.
function openMask(file, old = null) {
  if (!file) return;
  return wait(`Opening ${file.name}`, async (signal) => {
    const options = { invert_mask: Number(find("invert").checked), dilate_mask: find("grow").value || 0 };
    const fields = { photo: history.photo.file, mask: old?.file ?? await read(file), ...options };
    const response = await send("mask", fields, signal);
    const image = await createImageBitmap(await response.blob());
    if (old) history.undo();
    add({ kind: "mask", image, file: fields.mask });
  });
}

function reopenMask() {
  if (history.last?.kind === "mask") openMask(history.last.file, history.last);
}

function fill() {
  const { photo, marks } = history;
  if (!marks.length) return fail("There is no hole yet; paint over what should go, or open a mask under More.");
  return wait(`Filling with ${find("method").selectedOptions[0].text}`, async (signal) => {
    add(await complete({
      photo: photo.file,
      mask: await sheet.toFile(sheet.width, sheet.height, "mask.png"),
      method: find("method").value,
      blend: find("blend").value,
      scale: find("scale").value,
      resize_mask: Number(photo.width !== sheet.width),
    }, signal));
  });
}

function move(direction) {
  if (brush.stroke) return;
  history[direction]();
  refresh();
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
  document.body.classList.toggle("before", held && !find("compare").disabled);
}

function setTool(erase) {
  brush.erase = erase;
  find("brush").setAttribute("aria-pressed", !erase);
  find("eraser").setAttribute("aria-pressed", erase);
}

function setSize(size) {
  find("size").value = size; // within its bounds
  find("size-shown").textContent = find("size").value;
  brush.resize(Number(find("size").value));
}

function release(key) {
  if ([" ", null].includes(key)) brush.pan(false);
  if (["c", null].includes(key)) compare(false);
}

// --- events

const CLICKS = {
  open: () => find("photo-file").click(),
  first: () => find("photo-file").click(),
  restart: () => add(history.original),
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
  "close-error": () => fail(""),
};
for (const [id, act] of Object.entries(CLICKS)) {
  find(id).addEventListener("click", (event) => {
    if (event.detail) find(id).blur(); // by a pointer: Space then pans, instead of clicking again
    act();
  });
}
const CHANGES = {
  invert: reopenMask,
  grow: reopenMask,
  "photo-file": ({ files }) => open(files[0]),
  "mask-file": ({ files }) => openMask(files[0]),
};
for (const [id, act] of Object.entries(CHANGES)) {
  find(id).addEventListener("change", ({ target }) => {
    act(target);
    if (target.type === "file") target.value = ""; // the same file may be chosen again
  });
}
find("size").addEventListener("input", (event) => setSize(event.target.value));
sheet.onzoom = () => {
  find("fit").textContent = `${Math.round(100 * sheet.scale * sheet.width / history.photo.width)} %`;
};

const held = find("compare");
held.addEventListener("pointerdown", (event) => {
  held.setPointerCapture(event.pointerId);
  compare(true);
});
for (const name of ["pointerup", "pointercancel", "blur", "keyup"]) held.addEventListener(name, () => compare(false));
held.addEventListener("keydown", (event) => compare([" ", "Enter"].includes(event.key)));
held.addEventListener("contextmenu", (event) => event.preventDefault());

const keys = {
  c: () => compare(true),
  "[": () => setSize(brush.size / 1.2 - 1),
  "]": () => setSize(brush.size * 1.2 + 1),
  Escape: () => (running ? running.abort() : fail("")),
};
listenToKeys({ keys, stage, brush, release });
listenToFiles(stage, open);
window.addEventListener("beforeunload", (event) => {
  const { photo, original } = history;
  if (![original, downloaded].includes(photo)) event.preventDefault();
});

server = await (await fetch("methods")).json();
find("method").replaceChildren(...server.methods.map(({ name, title }) => new Option(title, name)));
find("limits").textContent =
  `JPEG, PNG, WebP, TIFF or BMP, up to ${server.megapixels} megapixels and ${server.megabytes} MB. The server keeps no copy.`;
document.documentElement.dataset.ready = "";
