// Keys, pasted and dropped files.

// A key clicks the button that has it in `data-keys`, such as "b" or "Control+z", or calls one of
// `keys`. Space, held, pans. `release` is called with a key that is no longer held, or null for all.
export function listenToKeys({ keys, stage, brush, release }) {
  document.addEventListener("keydown", (event) => {
    if (document.querySelector("dialog[open]")) return;
    const control = event.ctrlKey || event.metaKey;
    const typing = event.target.matches("select, input[type=number]");
    const free = [stage, document.body].includes(event.target);
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const name = `${control ? "Control+" : ""}${control && event.shiftKey ? "Shift+" : ""}${key}`;
    if (name === "Control+c" && (typing || String(getSelection()))) return; // text is copied
    const button = document.querySelector(`[data-keys~="${CSS.escape(name)}"]`);
    const act = button ? () => button.click() : keys[name];
    if (act && !event.altKey && (control || !typing)) act();
    else if (key === " " && free) brush.pan(true);
    else if (!free || control || !brush.key(event)) return;
    event.preventDefault();
  });
  document.addEventListener("keyup", (event) => release(event.key.toLowerCase()));
  window.addEventListener("blur", () => release(null));
}

export function listenToFiles(stage, open) {
  document.addEventListener("paste", (event) => open(event.clipboardData.files[0]));
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      // A drag that leaves an element for another is still over the page.
      stage.classList.toggle("dropping", name === "dragover" || Boolean(event.relatedTarget));
      if (name === "drop") open(event.dataTransfer.files[0], event.clientX);
    });
  }
}
