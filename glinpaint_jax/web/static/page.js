// The page: buttons, keys, files, and what happens when.

import { Refusal, STRETCH, complete, getMethods, openPhoto, send } from "./api.js";
import { Brush } from "./brush.js";
import { History } from "./history.js";
import { listenToFiles, listenToKeys } from "./keys.js";
import { Sheet } from "./sheet.js";

const HINT = "Paint over what should go, then press Complete.";
const UNLIKELY = ["patches", "smooth", "navier-stokes"]; // not among the other results
const find = (id) => document.getElementById(id);
const pick = (id) => Object.assign(find(id), { value: "" }).click(); // the same file may be chosen again
const stage = find("stage");
const history = new History();
const sheet = new Sheet(stage);
const brush = new Brush(sheet, () => Boolean(history.photo) && !running, paint, () => sheet.draw(history.marks));
let server = {}; // its methods and limits
let running = null; // the AbortController of what the page waits for

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
  const result = !marks.length && photo?.hole && photo;
  const possible = {
    open: true, first: true, method: true, complete: photo, "open-mask": photo,
    "save-mask": marks.length, clear: marks.length, copy: changed, previous: result?.number, another: result,
    undo: history.canUndo, redo: history.canRedo, restart: changed || marks.length, download: changed,
  };
  for (const id in possible) find(id).disabled = busy || !possible[id];
  for (const id of ["zoom-in", "zoom-out", "fit"]) find(id).disabled = !photo;
  for (const id of ["compare", "split"]) find(id).disabled = !changed;
  find("result").classList.toggle("unused", !changed);
  find("empty").hidden = Boolean(photo);
  find("cancel").hidden = !busy;
  find("name").textContent = photo ? `${original.file.name} · ${photo.width} x ${photo.height}` : "";
  find("download").classList.toggle("primary", changed && !marks.length);
  stage.setAttribute("aria-busy", busy);
  stage.classList.toggle("paints", Boolean(photo) && !busy);
  brush.cursor.hidden ||= busy;
  if (!busy && photo) say(result ? `${result.number + 1} of ${result.hole.ways.length}. ${result.summary}` : HINT);
}

function say(text) {
  if (find("status").textContent !== text) find("status").textContent = text; // else read aloud again
}

// Shows what is wrong, and a button that helps.
function fail(text, label = "", act = null) {
  find("error").hidden = !text;
  find("error").querySelector("p").textContent = text;
  Object.assign(find("remedy"), { textContent: label, hidden: !label, onclick: act });
}

// Runs `work(signal, tell)`, with `text` or what it tells, and the seconds, in the status line. Shows
// what goes wrong; `again` is called if the visitor presses the remedy's button.
async function wait(text, work, again = () => wait(text, work)) {
  if (running) return;
  fail("");
  running = new AbortController();
  const started = Date.now();
  const [idle, focused] = [find("status").textContent, document.activeElement];
  let told = "";
  const tick = () => {
    const seconds = Math.floor((Date.now() - started) / 1000);
    say(`${told || text} …`);
    find("seconds").textContent = seconds > 1 ? `${seconds} s` : "";
  };
  update();
  tick();
  const timer = setInterval(tick, 200);
  try {
    await work(running.signal, (news) => { told = news; });
  } catch (error) {
    if (error.name === "AbortError") return;
    fail(error.message, error.cause, () => again(error));
    if (!(error instanceof Refusal)) throw error;
  } finally {
    clearInterval(timer);
    find("seconds").textContent = "";
    running = null;
    say(idle);
    update();
    if (document.activeElement === document.body) focused.focus(); // disabled meanwhile
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
  return wait(`Opening ${file.name}`, async (signal, tell) => {
    const photo = await openPhoto(await read(file), signal, tell);
    check(file, photo.width * photo.height / 1e6, server.megapixels, "megapixels");
    add(photo);
    sheet.fit();
  });
}

// Draws a mask file, in place of `old`, the same file with other options.
function openMask(file, old = null, stretch = old?.stretch ?? 0) {
  if (!file) return;
  return wait(`Opening ${file.name}`, async (signal, tell) => {
    const options = { invert_mask: Number(find("invert").checked), resize_mask: stretch };
    const dilate_mask = Math.min(Math.max(Math.round(find("grow").valueAsNumber) || 0, 0), 200);
    const fields = { photo: history.photo.file, mask: old?.file ?? await read(file), dilate_mask, ...options };
    const { response } = await send("mask", fields, signal, tell);
    const image = await createImageBitmap(response);
    if (old) history.move(-1);
    add({ kind: "mask", image, file: fields.mask, stretch });
  }, ({ cause }) => openMask(file, old, Number(cause === STRETCH)));
}

function reopenMask() {
  const last = history.marks.at(-1);
  if (last?.kind === "mask") openMask(last.file, last);
}

function paint(stroke) {
  add(stroke);
  if (find("at-once").checked && !stroke.erase) fill();
}

// The results to offer, as "ATTEMPT METHOD": the chosen method's, those that differ most, the rest.
function listWays(chosen) {
  const base = chosen === "patches" ? chosen : "auto";
  const others = server.methods.filter(({ name }) => !UNLIKELY.includes(name)).map(({ name }) => `0 ${name}`);
  return [...new Set([`0 ${chosen}`, `0 ${base}`, "0 network", `1 ${base}`, `2 ${base}`, `3 ${base}`, ...others])];
}

function fill() {
  const { photo, marks } = history;
  if (!marks.length) return fail("There is no hole yet; paint over what should go, or open a mask under More.");
  if (!server.methods) return connect();
  const mask = sheet.toFile(sheet.width, sheet.height, "mask.png");
  const resize_mask = Number(photo.width !== sheet.width);
  const fields = { blend: find("blend").value, scale: find("scale").value, resize_mask };
  const isPainted = !marks.some(({ kind }) => kind === "mask");
  showResult({ photo, mask, fields, isPainted, ways: listWays(find("method").value), results: [] }, 0);
}

// Shows a hole's result, made now if it is new. If it equals an earlier one, the next is shown.
function showResult(hole, number) {
  const { ways, results } = hole;
  if (results[number % ways.length]) return add(results[number % ways.length]);
  const [attempt, method] = [ways[number][0], ways[number].slice(2)];
  const { title } = server.methods.find(({ name }) => name === method);
  return wait(`Filling with ${title}`, async (signal, tell) => {
    const fields = { ...hole.fields, mask: await hole.mask, method, attempt };
    const result = await complete(hole.photo, fields, signal, tell);
    const [content, ...others] = await Promise.all([result, ...results].map(({ file }) => file.arrayBuffer()));
    if (others.some((other) => !indexedDB.cmp(other, content))) {
      ways.splice(number, 1);
      setTimeout(showResult, 0, hole, number); // once this is no longer running
      return;
    }
    if (hole.isPainted) result.summary = result.summary.replace(/is the mask .*\?/, "smaller holes are filled better");
    add(results[number] = { ...result, hole, number });
  });
}

function move(steps) {
  if (brush.stroke) return;
  history.move(steps);
  refresh();
}

function save(file, entries) {
  for (const entry of entries) entry.saved = true;
  const link = document.createElement("a");
  link.href = URL.createObjectURL(file);
  link.download = file.name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

function copyResult() {
  if (!navigator.clipboard?.write) return fail("Browsers copy only from https or localhost; download it instead.");
  const { image, width, height } = history.photo;
  return wait("Copying", async () => {
    const canvas = new OffscreenCanvas(width, height);
    canvas.getContext("2d").drawImage(image, 0, 0);
    await navigator.clipboard.write([new ClipboardItem({ "image/png": canvas.convertToBlob() })]);
  });
}

async function saveMask() {
  const { photo, original, marks } = history;
  const stem = original.file.name.replace(/\.[^.]*$/, "");
  save(await sheet.toFile(photo.width, photo.height, `${stem}-mask.png`), marks);
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

function listen(type, acts) {
  for (const [id, act] of Object.entries(acts)) find(id).addEventListener(type, ({ target }) => act(target));
}

// A button clicked by a pointer loses the focus: Space then pans, instead of clicking again.
document.addEventListener("click", ({ target, detail }) => detail && target.closest("button")?.blur(), true);
listen("click", {
  open: () => pick("photo-file"),
  first: () => pick("photo-file"),
  restart: () => add(history.original),
  copy: copyResult,
  help: () => find("sheet-of-help").showModal(),
  "close-help": () => find("sheet-of-help").close(),
  download: () => save(history.photo.file, [history.photo]),
  brush: () => setTool(false),
  eraser: () => setTool(true),
  undo: () => move(-1),
  redo: () => move(1),
  clear: () => add({ kind: "clear" }),
  previous: () => showResult(history.photo.hole, history.photo.number - 1),
  another: () => showResult(history.photo.hole, history.photo.number + 1),
  "zoom-in": () => sheet.zoom(1.5),
  "zoom-out": () => sheet.zoom(1 / 1.5),
  fit: () => sheet.fit(),
  complete: fill,
  cancel: () => running?.abort(),
  "open-mask": () => pick("mask-file"),
  "save-mask": saveMask,
  more: () => {
    find("options").hidden = !find("options").hidden;
    find("more").setAttribute("aria-expanded", !find("options").hidden);
  },
  "close-error": () => fail(""),
});
listen("change", {
  invert: reopenMask,
  grow: reopenMask,
  "photo-file": ({ files }) => open(files[0]),
  "mask-file": ({ files }) => openMask(files[0]),
});
listen("input", {
  size: ({ value }) => setSize(value),
  split: ({ value }) => { // in percent of the photograph's width
    stage.style.setProperty("--split", `${value}%`);
    document.body.classList.toggle("split", value > 0);
  },
  color: ({ value }) => {
    sheet.color = value;
    sheet.draw(history.marks);
  },
});
sheet.onzoom = () => {
  find("percent").textContent = `${Math.round(100 * sheet.scale * sheet.width / history.photo.width)} %`;
};

const holds = ({ type, key = " " }) => /down$/.test(type) && [" ", "Enter"].includes(key);
for (const name of ["pointerdown", "keydown", "pointerup", "pointerleave", "blur", "keyup"]) {
  find("compare").addEventListener(name, (event) => compare(holds(event)));
}
find("compare").addEventListener("contextmenu", (event) => event.preventDefault());

const keys = {
  c: () => compare(true),
  "[": () => setSize(brush.size / 1.2 - 1),
  "]": () => setSize(brush.size * 1.2 + 1),
  Escape: () => (running ? running.abort() : fail("")),
};
listenToKeys({ keys, stage, brush, release });
// Over a photograph, what is dropped on the right half is a mask.
listenToFiles(stage, (file, x) => (history.photo && x > stage.clientWidth / 2 ? openMask : open)(file));
window.addEventListener("beforeunload", (event) => { if (history.isUnsaved) event.preventDefault(); });

function connect() {
  return wait("Connecting", async (signal) => {
    server = await getMethods(signal);
    find("method").replaceChildren(...server.methods.map(({ name, title }) => new Option(title, name)));
    const size = `${server.megapixels} megapixels and ${server.megabytes} MB`;
    find("limits").textContent = `JPEG, PNG, WebP, TIFF or BMP, up to ${size}. The server keeps no copy.`;
    document.documentElement.dataset.ready = "";
  });
}
connect();
