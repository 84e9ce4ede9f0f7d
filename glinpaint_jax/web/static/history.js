// What was done, in order. An entry is a photograph (opened, or completed here), a stroke or a mask
// file. The last photograph is on the page, with the strokes and masks that follow it.

export class History {
  entries = [];
  length = 0; // later entries have been undone

  add(entry) {
    this.entries = [...this.done, entry];
    this.length = this.entries.length;
  }

  get canUndo() { return this.length > 1; }
  get canRedo() { return this.length < this.entries.length; }
  undo() { if (this.canUndo) this.length--; }
  redo() { if (this.canRedo) this.length++; }

  get done() { return this.entries.slice(0, this.length); }
  get last() { return this.entries[this.length - 1]; }
  get photo() { return this.done.findLast((entry) => entry.kind === "photo"); }
  get original() { return this.done.findLast((entry) => entry.opened); }
  get marks() { return this.done.slice(this.done.lastIndexOf(this.photo) + 1); }
}
