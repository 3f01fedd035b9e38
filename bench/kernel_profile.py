"""Every kernel of a training step on a GPU: its share of the time, its bandwidth, how busy the tensor cores are.

    python3 bench/kernel_profile.py build/gpu/tessera configs/gpt2_124m.json [--set train.batch=8] [--rows 30]

Runs `tessera bench step CONFIG --profile` under Nsight Compute (ncu), which measures the kernels of one
step one by one, at the clocks they find. "DRAM" and "tensor" are shares of what the device can do.
"""

import argparse
import csv
import re
import subprocess
import sys
from collections import defaultdict

METRICS = {
    "gpu__time_duration.sum": "ns",
    "dram__bytes.sum": "bytes",
    "dram__throughput.avg.pct_of_peak_sustained_elapsed": "dram",
    "sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_elapsed": "tensor",
}
UNITS = {"ns": 1, "us": 1e3, "usecond": 1e3, "nsecond": 1, "ms": 1e6, "msecond": 1e6, "byte": 1, "Kbyte": 1e3,
         "Mbyte": 1e6, "Gbyte": 1e9, "%": 1, "": 1}


def profile(program, config, changes):
    command = ["ncu", "--profile-from-start", "off", "--clock-control", "none", "--csv", "--page", "raw",
               "--metrics", ",".join(METRICS), program, "bench", "step", config, "--profile", "--steps", "1"]
    for change in changes:
        command += ["--set", change]
    result = subprocess.run(command, capture_output=True, text=True)
    lines = result.stdout.splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if start is None:
        sys.exit(f"kernel_profile: ncu gave no table: {(result.stderr or result.stdout).strip()[-400:]}")
    rows = list(csv.reader(lines[start:]))
    return rows[0], rows[1], rows[2:]


def short(name):
    """A kernel's name without its namespaces, return type and arguments."""
    name = re.sub(r"\(.*", "", name)
    name = re.sub(r"^(void|static) +", "", name)
    name = re.sub(r"<unnamed>::|\(anonymous namespace\)::|tessera::", "", name)
    return name if len(name) <= 64 else name[:61] + "..."


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[], help="change the config")
    parser.add_argument("--rows", type=int, default=30)
    options = parser.parse_args()
    header, units, kernels = profile(options.program, options.config, options.set)
    column = {title: i for i, title in enumerate(header)}
    totals = defaultdict(lambda: defaultdict(float))
    for kernel in kernels:
        value = {}
        for metric, title in METRICS.items():
            if metric in column:
                i = column[metric]
                value[title] = float(kernel[i].replace(",", "") or 0) * UNITS.get(units[i], 1)
        row = totals[short(kernel[column["Kernel Name"]])]
        row["calls"] += 1
        row["ns"] += value["ns"]
        row["bytes"] += value.get("bytes", 0)
        for share in ("dram", "tensor"):
            row[share] += value.get(share, 0) * value["ns"]
    whole = sum(row["ns"] for row in totals.values())
    print(f"{len(kernels)} kernels, {whole / 1e6:.2f} ms in them\n")
    print(f"{'kernel':<64} {'calls':>6} {'us':>9} {'share':>6} {'GB/s':>7} {'DRAM':>6} {'tensor':>7}")
    for name, row in sorted(totals.items(), key=lambda item: -item[1]["ns"])[: options.rows]:
        print(f"{name:<64} {row['calls']:>6.0f} {row['ns'] / 1e3:>9.1f} {100 * row['ns'] / whole:>5.1f}% "
              f"{row['bytes'] / row['ns']:>7.0f} {row['dram'] / row['ns']:>5.0f}% {row['tensor'] / row['ns']:>6.0f}%")


main()
