"""The results of accelerator.py as a Markdown page."""

from collections.abc import Iterable
from typing import Any

Row = dict[str, Any]

TITLES = {
    "device": "the machine",
    "parity": "parity",
    "jax_steps": "the training step in JAX",
    "torch_steps": "the training step in PyTorch",
    "profile": "profile",
    "input_rate": "input",
    "completion": "a large photograph",
    "train": "training",
    "export": "the last export",
}


def page(results: dict[str, Any]) -> str:
    parts = results["parts"]

    def rows(name: str) -> list[Row]:
        return parts.get(name, {}).get("rows", [])

    sections = [
        header(results, rows("device")),
        parity_section(rows("parity")),
        steps_section(rows("jax_steps"), rows("torch_steps")),
        profile_section(rows("profile")),
        input_section(rows("input_rate"), rows("jax_steps")),
        completion_section(rows("completion")),
        training_section(rows("train"), results.get("training", {})),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def table(columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    lines = [list(columns), ["---"] * len(list(columns)), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def header(results: dict[str, Any], device: list[Row]) -> str:
    lines = [f"# {device[0]['device'] if device else 'Accelerator'}", ""]
    if results["rehearsal"]:
        lines += ["**A rehearsal on a CPU, with tiny sizes: the numbers mean nothing.**", ""]
    for machine in device:
        memory = machine["memory_gb"]
        versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
        lines += [
            f"{results['started']}, at most {results['minutes']:g} minutes. {machine['devices']} "
            f"device(s){f' with {memory:.0f} GB for jax' if memory else ''}, {machine['cores']} "
            f"cores, Python {machine['python']}, {versions}.",
            "",
        ]
    statuses = [
        (TITLES[name], part["status"], part["seconds"]) for name, part in results["parts"].items()
    ]
    return "\n".join([*lines, table(("part", "how it ended", "seconds"), statuses)])


def parity_section(rows: list[Row]) -> str:
    if not rows:
        return ""
    lines = [
        (
            row["precision"],
            row["against"],
            row["phase"],
            f"{row['losses']['worst']:.1e}",
            f"{row['gradients']['median']:.1e}",
            f"{row['gradients']['worst']:.1e} ({row['gradients']['tensor']})",
            f"{row['statistics']['worst']:.1e}",
            "yes" if row["close"] else "**no**",
        )
        for row in rows
    ]
    columns = (
        "precision",
        "compared with",
        "step",
        "losses",
        "gradients: median",
        "worst",
        "statistics: worst",
        "as close as expected",
    )
    return (
        "## Parity\n\nOne step of each phase. Errors are the largest of 16 entries of a tensor, "
        "relative to its root mean square. The stored values come from a CPU, in float64; the "
        f"limits are in `parity.py`.\n\n{table(columns, lines)}"
    )


def steps_section(jax: list[Row], torch: list[Row]) -> str:
    products = {row["product"]: row["flop_per_s"] for row in jax if "product" in row}
    flop = next((row["flop_per_image"] for row in jax if "flop_per_image" in row), None)
    steps = sorted(
        (row for row in [*jax, *torch] if "batch" in row),
        key=lambda row: (row["batch"], row["precision"], row["framework"]),
    )
    if not products:
        return ""
    lines = []
    for row in steps:
        share = "-"
        if flop and "images_per_s" in row:
            share = f"{row['images_per_s'] * flop / products[row['precision']]:.0%}"
        lines.append(
            (
                row["batch"],
                row["precision"],
                row["framework"],
                f"{row['images_per_s']:.1f}" if "images_per_s" in row else row["failed"],
                share,
                f"{row['gigabytes']:.1f}" if "gigabytes" in row else "-",
                f"{row['compile_s']:.0f}" if "compile_s" in row else "-",
            )
        )
    columns = (
        "batch",
        "precision",
        "program",
        "images/s",
        "of a matrix product's rate",
        "GB",
        "to compile, s",
    )
    rates = ", ".join(f"{rate / 1e12:.1f} in {name}" for name, rate in products.items())
    return (
        "## Joint training step\n\n"
        f"Each step is waited for. Matrix products, TFLOP/s: {rates}. "
        + (f"An image takes {flop / 1e9:.1f} GFLOP. " if flop else "")
        + "GB: what the compiled program holds (JAX) or the allocator's peak (PyTorch). PyTorch "
        f"runs with channels_last, and autocast in bfloat16.\n\n{table(columns, lines)}"
    )


def profile_section(rows: list[Row]) -> str:
    if not rows:
        return ""
    lines = [
        (
            f"{row['milliseconds']:.2f}",
            f"{row['share']:.1%}",
            f"{row['calls']:g}",
            f"`{row['operation']}`" + (f" ({row['kernel']})" * (row["kernel"] != row["operation"])),
            row["layer"],
        )
        for row in rows[1:]
    ]
    return (
        f"## Longest operations\n\nJoint step, bfloat16, batch {rows[0]['batch']}; the whole trace "
        "is in trace.json.gz, for ui.perfetto.dev.\n\n"
        + table(("ms a step", "of all operations", "calls a step", "operation", "layer"), lines)
    )


def input_section(rows: list[Row], steps: list[Row]) -> str:
    if not rows:
        return ""
    lines = []
    for row in rows:
        ours, theirs = row["rates"]["jax"], row["rates"].get("torch")
        lines.append((row["name"], ours[0], ours[3], theirs[0] if theirs else "-"))
    columns = ("", "images/s", "per second of CPU time", "torch.utils.data, same work")
    fastest = max((row.get("images_per_s", 0) for row in steps), default=0)
    need = ""
    if fastest:
        need = (
            f"\n\nThe fastest joint step takes {fastest:.0f} images/s: "
            f"{fastest / rows[-1]['rates']['jax'][0]:.2f} of what {rows[-1]['name']} deliver."
        )
    return f"## Input\n\nJPEGs of half a megapixel.\n\n{table(columns, lines)}{need}"


def completion_section(rows: list[Row]) -> str:
    if not rows:
        return ""
    (row,) = rows
    median, least, most = row["seconds"]
    memory = f", {row['gigabytes']:.2f} GB on the device" if row["gigabytes"] else ""
    return (
        f"## A large photograph\n\n{row['width']}x{row['height']} with a hole of {row['hole']}x"
        f"{row['hole']}: {median:.2f} s ({least:.2f}-{most:.2f}){memory}. The first run, which "
        "compiles, is left out."
    )


def training_section(rows: list[Row], training: dict[str, Any]) -> str:
    if not rows:
        return ""
    config, records = rows[0], training.get("records", [])
    scores = [record for record in records if any(name.startswith("eval/") for name in record)]
    losses = [record for record in records if "images_per_second" in record]
    text = (
        f"## Training\n\n{config['image_size']}x{config['image_size']}, batch {config['batch']}, "
        "bfloat16, smooth base, reconstruction loss only."
    )
    if losses:
        last = losses[-1]
        text += (
            f" {last['step'] * config['batch']:,} images in {last['step']:,} steps, at "
            f"{last['images_per_second']:.1f} images/s at the end."
        )
    if training.get("exported"):
        text += f" generator.safetensors holds step {training['exported']}."
    if scores:
        names = sorted(name for name in scores[0] if name.startswith("eval/"))
        lines = [
            (record["step"], *(f"{record.get(name, float('nan')):.3f}" for name in names))
            for record in scores
        ]
        text += "\n\n" + table(("step", *(name.removeprefix("eval/") for name in names)), lines)
        text += "\n\n![masked, completed, original](samples.png)\n\n![curves](curves.png)"
    return text
