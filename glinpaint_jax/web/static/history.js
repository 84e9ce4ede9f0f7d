// What was done, in order. An entry is a photograph (opened, or completed here), a stroke, a mask
// file, or "clear". The last photograph is on the page, with the strokes and masks that follow it.

export class History {
  entries = [];
  length = 0; // later entries have been undone

  // The results for one hole replace each other.
  add(entry) {
    const replaced = entry.hole && entry.hole === this.photo.hole ? 1 : 0;
    this.entries = [...this.entries.slice(0, this.length - replaced), entry];
    this.length = this.entries.length;
  }

  get canUndo() { return this.length > 1; }
  get canRedo() { return this.length < this.entries.length; }
  move(steps) { this.length += steps; } // -1: undo, 1: redo

  get done() { return this.entries.slice(0, this.length); }
  get photo() { return this.done.findLast((entry) => entry.kind === "photo"); }
  get original() { return this.done.findLast((entry) => entry.opened); }
  get marks() {
    const start = this.done.findLastIndex(({ kind }) => ["photo", "clear"].includes(kind));
    return this.done.slice(start + 1);
  }

  // Whether there are marks or a completion that are neither saved nor part of a later completion.
  get isUnsaved() {
    const photos = this.done.filter(({ kind }) => kind === "photo");
    const isLast = (index) => photos[index + 1]?.opened ?? true;
    return this.marks.some((mark) => !mark.saved)
      || photos.some((photo, index) => !photo.opened && !photo.saved && isLast(index));
  }
}
