"""The results of accelerator.py as a Markdown page."""

from typing import Any

Row = dict[str, Any]

# Part -> heading of its section, and what its table says.
SECTIONS = {
    "device": ("Machine", ""),
    "parity": (
        "Parity",
        "One step of each phase: float32 compared with values that a CPU computed in float64, and "
        "bfloat16 with float32. A tensor's error is the largest of 16 entries' errors, relative to "
        "its root mean square. Shown are the largest, and the median cosine between gradients; the "
        "limits are in `parity.py`.",
    ),
    "products": (
        "Matrix products",
        "The rate of a large matrix product, and the images/s of a joint step at that rate.",
    ),
    "steps": (
        "Joint training step",
        "Each step is waited for. GB: what the compiled program holds (JAX), or the allocator's "
        "peak (PyTorch, which runs with channels_last, and autocast in bfloat16).",
    ),
    "profile": (
        "Longest operations",
        "Joint step in bfloat16; the whole trace is in trace.json.gz, for ui.perfetto.dev.",
    ),
    "input_rate": ("Input", "From JPEGs of half a megapixel."),
    "completion": ("A large photograph", "The first run, which compiles, is left out."),
    "train": ("Training", "In bfloat16, on the smooth base, for the error in the hole only."),
    "export": ("Exported generator", "generator.safetensors, with kernels in float16."),
}
PICTURES = "![masked, completed, original](samples.png)\n\n![curves](curves.png)"


def page(results: dict[str, Any]) -> str:
    parts = results["parts"]
    rows = {name: part["rows"] for name, part in parts.items()}
    rows["steps"] = sorted(
        rows.get("jax_steps", []) + rows.get("torch_steps", []),
        key=lambda row: (row["batch"], row["precision"], row["program"]),
    )
    sections = [f"# Accelerator report, {results['started']}"]
    if results["rehearsal"]:
        sections.append("**A rehearsal on a CPU, with tiny sizes: the numbers mean nothing.**")
    statuses = [
        {"part": name, "how it ended": part["status"], "seconds": part["seconds"]}
        for name, part in parts.items()
    ]
    sections.append(table(statuses))
    for name, (heading, note) in SECTIONS.items():
        if rows.get(name):
            sections += [f"## {heading}", *([note] if note else []), table(rows[name])]
        if name == "train" and (evaluations := scores(results["training"])):
            sections += [table(evaluations), PICTURES]
    return "\n\n".join(sections) + "\n"


def scores(records: list[Row]) -> list[Row]:
    """The evaluations among a run's records, each with the rate of training before it."""
    rows, rate = [], None
    for record in records:
        rate = record.get("images_per_second", rate)
        scores = {name[5:]: value for name, value in record.items() if name.startswith("eval/")}
        if scores:
            rows.append({"step": record["step"], "images/s": rate} | scores)
    return rows


def table(rows: list[Row]) -> str:
    """A column for each name that has a value in any row."""
    names = (name for row in rows for name, value in row.items() if value is not None)
    columns = list(dict.fromkeys(names))
    lines = [columns, ["---"] * len(columns)]
    lines += [[cell(row.get(name)) for name in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "**no**"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return "" if value is None else str(value).replace("|", "/")
