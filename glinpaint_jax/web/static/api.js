// Requests to the server, and photographs. A Refusal's message is for the person at the page.

export class Refusal extends Error {}

export async function send(path, fields, signal) {
  const body = new FormData();
  for (const [name, value] of Object.entries(fields)) body.append(name, value);
  const response = await fetch(path, { method: "POST", body, signal }).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server does not answer; check that it is running, then try again.");
  });
  if (response.ok) return response;
  const unknown = { error: `the server failed with status ${response.status}; see its log` };
  const { error } = await response.json().catch(() => unknown);
  // A file's name keeps its case.
  throw new Refusal(`${error.replace(/^[a-z]+ /, (word) => word[0].toUpperCase() + word.slice(1))}.`);
}

// Shows a file as the server reads it. What this browser cannot show, the server converts, or says
// what is wrong with it.
export async function openPhoto(file, signal) {
  let image = await isPlain(file) && await decode(file);
  image ||= await decode(await (await send("preview", { photo: file }, signal)).blob());
  return { kind: "photo", file, image, width: image.naturalWidth, height: image.naturalHeight };
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

export async function complete(fields, signal) {
  const response = await send("complete", fields, signal);
  const name = /filename\*?=(?:utf-8'')?"?([^";]+)/i.exec(response.headers.get("Content-Disposition"));
  const blob = await response.blob();
  const file = new File([blob], decodeURIComponent(name[1]), { type: blob.type });
  return { ...await openPhoto(file, signal), summary: decodeURIComponent(response.headers.get("X-Summary")) };
}
