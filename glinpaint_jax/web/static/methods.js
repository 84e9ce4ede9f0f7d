// The list of what can fill a hole, and the server's limits.

import { send } from "./api.js";

export class Methods {
  constructor(select) { this.select = select; }

  async load() {
    Object.assign(this, await (await fetch("methods")).json());
    this.chosen ??= this.default;
    this.select.replaceChildren(...this.methods.map(({ name, title, ready }) =>
      new Option(ready ? title : `${title}: download`, name)));
    this.select.value = this.loading ?? this.chosen;
  }

  find(name) { return this.methods.find((one) => one.name === name); }

  get title() { return this.find(this.chosen).title; }

  // Chooses a method; `wait` shows the download of one that is not ready, and what goes wrong.
  async choose(name, wait) {
    if (!this.find(name).ready) {
      this.loading = name;
      const timer = setInterval(() => this.load().catch(() => null), 500);
      const text = () => {
        const { progress } = this.find(name);
        return progress === null ? "Downloading" : `Downloading: ${Math.round(100 * progress)} %`;
      };
      const isReady = await wait(text, (signal) => send("load", { method: name }, signal));
      clearInterval(timer);
      this.loading = null;
      if (!isReady) name = this.chosen;
      await this.load().catch(() => null); // the list says that it is ready
    }
    this.chosen = this.select.value = name;
  }
}
