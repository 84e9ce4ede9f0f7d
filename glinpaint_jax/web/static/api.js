// Requests to the server, and photographs. A Refusal's message is for the person at the page; its
// cause is what a button offers to do.

export class Refusal extends Error {}

export const STRETCH = "Stretch the mask";
const silence = () => new Refusal("The server does not answer. Check that it is running.", { cause: "Try again" });

export async function getMethods(signal) {
  const signals = AbortSignal.any([signal, AbortSignal.timeout(20000)]);
  const response = await fetch("methods", { signal: signals }).catch(() => null);
  if (!response?.ok) throw silence();
  return response.json();
}

// Sends a form; `tell` hears what happens meanwhile. Resolves to the answered request. Only
// XMLHttpRequest knows how much has been sent.
export function send(path, fields, signal, tell) {
  const request = Object.assign(new XMLHttpRequest(), { responseType: "blob" });
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  const percent = ({ loaded, total }) => `${Math.floor(100 * loaded / total)} %`;
  request.upload.onprogress = (event) => tell(`Uploading: ${percent(event)}`);
  request.upload.onload = () => tell("Waiting for the server");
  request.onprogress = (event) => tell(`Receiving: ${percent(event)}`);
  signal.addEventListener("abort", () => request.abort());
  request.open("POST", path);
  request.send(body);
  return new Promise((resolve, reject) => {
    request.onabort = () => reject(signal.reason);
    request.onerror = () => reject(silence());
    request.onload = () => (request.status === 200 ? resolve(request) : refuse(request).then(reject));
  });
}

async function refuse({ status, response }) {
  const unknown = { error: `the server failed with status ${status}; see its log` };
  const { error } = await new Response(response).json().catch(() => unknown);
  // What follows is for the command line. A file's name keeps its case.
  const text = error.replace(/; (make them the same size|to fill its transparent parts).*/, "")
    .replace(/^[a-z]+ /, (word) => word[0].toUpperCase() + word.slice(1));
  return new Refusal(`${text}.`, { cause: error.includes("--resize-mask") ? STRETCH : "" });
}

// Shows a file as the server reads it. What this browser cannot show, the server converts, or says
// what is wrong with it.
export async function openPhoto(file, signal, tell) {
  const plain = await isPlain(file) && await decode(file);
  const image = plain || await decode((await send("preview", { photo: file }, signal, tell)).response);
  const { naturalWidth: width, naturalHeight: height } = image;
  return { kind: "photo", opened: true, file, image, converted: !plain, width, height };
}

// Browsers disagree about the orientation in EXIF data of PNG and WebP. Most show no TIFF.
async function isPlain(file) {
  if (["image/jpeg", "image/bmp"].includes(file.type)) return true;
  if (!["image/png", "image/webp"].includes(file.type)) return false;
  return !/exif/i.test(new TextDecoder("latin1").decode(await file.arrayBuffer()));
}

async function decode(blob) {
  const image = new Image();
  image.alt = "The photograph";
  image.src = URL.createObjectURL(blob);
  const isImage = await image.decode().then(() => true, () => false);
  URL.revokeObjectURL(image.src);
  return isImage && image;
}

// Completes `photo`. If the browser cannot show its format, the answer is the file, then a PNG of it.
export async function complete(photo, fields, signal, tell) {
  const job = crypto.getRandomValues(new Uint32Array(4)).join("");
  const timer = setInterval(async () => {
    const { before } = await fetch(`queue?job=${job}`).then((answer) => answer.json()).catch(() => ({}));
    if (Number.isInteger(before)) tell(before ? `Waiting: ${before} before you` : "");
  }, 500);
  const form = { photo: photo.file, preview: Number(photo.converted), ...fields };
  const request = await send(`complete?job=${job}`, form, signal, tell).finally(() => clearInterval(timer));
  const { response } = request;
  const header = (name) => request.getResponseHeader(name) ?? "";
  const name = /filename\*?=(?:utf-8'')?"?([^";]+)/i.exec(header("Content-Disposition"))[1];
  const size = Number(header("X-File-Bytes")) || response.size;
  const file = new File([response.slice(0, size)], decodeURIComponent(name), { type: response.type });
  const image = await decode(photo.converted ? response.slice(size) : file);
  const summary = decodeURIComponent(header("X-Summary"));
  return { ...photo, opened: false, saved: false, file, image, summary };
}
