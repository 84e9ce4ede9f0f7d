// Requests to the server. A Refusal's message is a sentence for the person at the page.

export class Refusal extends Error {}

export async function send(path, fields, signal) {
  const form = new FormData();
  for (const [name, value] of Object.entries(fields)) form.append(name, value);
  let response;
  try {
    response = await fetch(path, { method: "POST", body: form, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal("The server does not answer; check that it is running, then try again.");
  }
  if (!response.ok) throw new Refusal(await sentence(response));
  return response;
}

async function sentence(response) {
  try {
    const { error } = await response.json();
    // A file's name keeps its case.
    const start = /^[a-z]+ /.test(error) ? error[0].toUpperCase() : error[0];
    return `${start}${error.slice(1)}.`;
  } catch {
    return `The server failed with status ${response.status}; see its log.`;
  }
}

// The server's preview of a photograph: upright, in a format that every browser shows.
export async function openPhoto(file, signal) {
  const response = await send("preview", { photo: file }, signal);
  const [width, height] = response.headers.get("X-Size").split("x").map(Number);
  return { kind: "photo", file, url: URL.createObjectURL(await response.blob()), width, height };
}

export async function complete(fields, signal) {
  const response = await send("complete", fields, signal);
  const name = /filename\*?=(?:utf-8'')?"?([^";]+)/i.exec(response.headers.get("Content-Disposition"));
  const file = new File([await response.blob()], decodeURIComponent(name[1]));
  return { file, summary: decodeURIComponent(response.headers.get("X-Summary")) };
}
