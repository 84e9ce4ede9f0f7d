// Keys, pasted and dropped files.

// `keys` and `controlKeys` map a key to a function of its event. Space, held, pans; `release` is
// called with the name of a key that is no longer held, or null for all.
export function listenToKeys({ keys, controlKeys, stage, brush, release }) {
  document.addEventListener("keydown", (event) => {
    const control = event.ctrlKey || event.metaKey;
    const typing = event.target.matches("select, input[type=number]");
    const free = [stage, document.body].includes(event.target);
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const act = control ? controlKeys[name] : !typing && !event.altKey && keys[name];
    if (act) act(event);
    else if (event.key === " " && free) brush.pan(true);
    else if (!free || control || !brush.key(event)) return;
    event.preventDefault();
  });
  document.addEventListener("keyup", (event) => {
    if (event.key === " ") brush.pan(false);
    release(event.key.toLowerCase());
  });
  window.addEventListener("blur", () => {
    brush.pan(false);
    release(null);
  });
}

export function listenToFiles(stage, open) {
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) open(file);
  });
  let inside = 0; // nested elements that a dragged file has entered
  for (const [name, by] of [["dragenter", 1], ["dragleave", -1], ["drop", 0], ["dragover", 0]]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      inside = name === "drop" ? 0 : inside + by;
      stage.classList.toggle("dropping", inside > 0);
      if (name === "drop") open(event.dataTransfer.files[0]);
    });
  }
}
