"""Predicts how training scales to 8, 64 and 512 accelerators: the table of docs/benchmarks.md.

    python scripts/benchmarks/scaling.py [--batch-norm-devices 8] [--gradient-bytes 2]

Arithmetic only, no measurement. Bandwidths and shapes are the makers'; the used shares of them, the
latencies and UTILIZATION are assumptions. Change them here.
"""

import argparse
from math import log2

IMAGES_PER_DEVICE = 12
UTILIZATION = 0.4  # share of the peak that computing reaches
GFLOP_PER_IMAGE = {"completion": 185.7, "joint": 243.5}  # as compiled for v5e, without blocks
GENERATOR_BYTES, DISCRIMINATOR_BYTES = 4 * 6_069_155, 4 * 45_060_225
# Bytes of each network's gradients, and the share of a step that their reduction can hide behind.
GRADIENTS = {
    "completion": [(GENERATOR_BYTES, 2 / 3)],
    "joint": [(GENERATOR_BYTES, 1 / 2), (DISCRIMINATOR_BYTES, 0.12)],
}
# Reductions that wait for one another: as compiled for v5e (v5p: assumed equal), counted for H200.
REDUCTIONS = {
    "v5e": {"completion": 33, "joint": 58},
    "v5p": {"completion": 33, "joint": 58},
    "H200": {"completion": 32, "joint": 76},
}
PEAK_FLOPS = {"v5e": 197e12, "v5p": 459e12, "H200": 989e12}  # bfloat16, dense
# Bytes per second in a ring.
ICI_BANDWIDTH = {"v5e": 100e9, "v5p": 300e9}
NVLINK_BANDWIDTH, NODE_BANDWIDTH = 360e9, 40e9
POD_BANDWIDTH = 3.1e9  # for each chip, between v5e pods
GPUS_PER_NODE = 8
TORUS = {  # number of chips: their arrangement within one pod
    "v5e": {8: (2, 4), 32: (4, 8), 64: (8, 8), 256: (16, 16)},
    "v5p": {8: (2, 2, 2), 32: (2, 4, 4), 64: (4, 4, 4), 512: (8, 8, 8)},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch-norm-devices", type=int, default=0, help="0: all")
    parser.add_argument("--gradient-bytes", type=int, default=4, help="2: bfloat16")
    options = vars(parser.parse_args())
    header = "devices", "phase", "compute, ms", "gradients, ms", "batch norm, ms"
    print("|", " | ".join((*header, "exposed", "overlapped")), "|")
    print("|---" * 7 + "|")
    for machine in PEAK_FLOPS:
        for devices in (8, 64, 512):
            for phase in GFLOP_PER_IMAGE:
                seconds, efficiencies = predict(machine, devices, phase, **options)
                cells = [f"{devices} {machine}", phase]
                cells += [f"{1e3 * value:.2f}" for value in seconds]
                cells += [f"{value:.0%}" for value in efficiencies]
                print("|", " | ".join(cells), "|")


def predict(
    machine: str,
    devices: int,
    phase: str,
    images: float = IMAGES_PER_DEVICE,
    batch_norm_devices: int = 0,
    gradient_bytes: int = 4,
) -> tuple[tuple[float, float, float], tuple[float, float]]:
    """Predicts one step with `images` on each device and gradients of 4 or 2 bytes a number.

    Returns the seconds of computing, of reducing gradients and of reducing batch statistics, and
    the efficiency with the gradients exposed and with them overlapped.
    """
    compute = images * GFLOP_PER_IMAGE[phase] * 1e9 / (UTILIZATION * PEAK_FLOPS[machine])
    times = [
        (transfer_seconds(machine, devices, size * gradient_bytes / 4), share)
        for size, share in GRADIENTS[phase]
    ]
    gradients = sum(seconds for seconds, _ in times)
    exposed = sum(max(0, seconds - share * compute) for seconds, share in times)
    group = min(devices, batch_norm_devices or devices)
    norms = REDUCTIONS[machine][phase] * latency_seconds(machine, group)
    efficiencies = tuple(compute / (compute + rest + norms) for rest in (gradients, exposed))
    return (compute, gradients, norms), efficiencies


def transfer_seconds(machine: str, devices: int, size: float) -> float:
    """How long the bytes of an all-reduce of `size` bytes take, without latency."""
    if machine == "H200":  # within the nodes, then an eighth of the bytes between them
        within = ring_seconds(min(devices, GPUS_PER_NODE), size, NVLINK_BANDWIDTH)
        nodes = max(devices // GPUS_PER_NODE, 1)
        return within + ring_seconds(nodes, size / GPUS_PER_NODE, NODE_BANDWIDTH)
    chips, pods = split_into_pods(machine, devices)
    within = ring_seconds(chips, size, ICI_BANDWIDTH[machine])
    return within + ring_seconds(pods, size / chips, POD_BANDWIDTH)


def latency_seconds(machine: str, devices: int) -> float:
    """How long an all-reduce takes however small it is."""
    if machine == "H200":
        return 20e-6 + 10e-6 * log2(max(devices // GPUS_PER_NODE, 1))
    chips, pods = split_into_pods(machine, devices)
    return 2e-6 + 1e-6 * sum(TORUS[machine][chips]) + (100e-6 if pods > 1 else 0)


def split_into_pods(machine: str, devices: int) -> tuple[int, int]:
    """Chips in each pod, and pods."""
    chips = min(devices, max(TORUS[machine]))
    return chips, devices // chips


def ring_seconds(devices: int, size: float, bandwidth: float) -> float:
    return 2 * (devices - 1) / devices * size / bandwidth


if __name__ == "__main__":
    main()
