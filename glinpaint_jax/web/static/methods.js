// The list of what can fill a hole, and the server's limits.

import { send } from "./api.js";

export class Methods {
  megabytes = 50;

  constructor(select) { this.select = select; }

  async load(shown) {
    Object.assign(this, await (await fetch("methods")).json());
    this.chosen ??= this.default;
    this.list(shown);
  }

  get title() { return this.select.selectedOptions[0].dataset.title; }

  list(shown = this.chosen) {
    this.select.replaceChildren(...this.methods.map(({ name, title, ready }) => {
      const option = new Option(ready ? title : `${title}: download`, name);
      option.dataset.title = title;
      return option;
    }));
    this.select.value = shown;
  }

  find(name) { return this.methods.find((one) => one.name === name); }

  // Chooses a method; `wait` shows the download of one that is not ready, and what goes wrong.
  async choose(name, wait) {
    if (this.find(name).ready) {
      this.chosen = name;
      return;
    }
    const timer = setInterval(() => this.load(name).catch(() => null), 500);
    const text = () => {
      const { progress } = this.find(name);
      return progress === null ? "Downloading" : `Downloading: ${Math.round(100 * progress)} %`;
    };
    await wait(text, async (signal) => {
      await send("load", { method: name }, signal);
      this.chosen = name;
    });
    clearInterval(timer);
    await this.load().catch(() => this.list());
  }
}
