"""Attention kernels of PyTorch, to run beside `bench_attention_cuda` on the same machine.

    python3 bench/peers/attention.py                       # everything
    python3 bench/peers/attention.py dense --lengths 4096,32768 --widths 64
    python3 bench/peers/attention.py window blocks --json

dense    scaled_dot_product_attention through flash and through cuDNN, causal and not
window   compiled FlexAttention over a causal window of 512 tokens
blocks   compiled FlexAttention over random blocks of 128 tokens, one in ten and the diagonal
long     flash over all of 131,072 tokens, causal, forward only: what a window saves

B 1, H 16, bf16, queries, keys and values as (B, N, H, D) seen through a transpose, as ours are. Operations
are counted over visible entries: 4 D forward and 10 D backward for each. Times are medians over groups
of calls, the device waited for around each group; three sets of inputs take turns. The backward is timed
alone, over a graph that is kept.
"""

import argparse
import json
import statistics
import time

import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

HEADS, WINDOW, BLOCK = 16, 512, 128
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"  # the CPU only for a dry run
BACKENDS = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}


def wait():
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def median_seconds(call):
    def timed(calls):
        wait()
        start = time.perf_counter()
        for i in range(calls):
            call(i)
        wait()
        return (time.perf_counter() - start) / calls

    timed(3)
    calls = int(min(max(0.02 / timed(3), 3), 300))
    return statistics.median(timed(calls) for _ in range(9))


def inputs(length, width):
    shape = (1, length, HEADS, width)
    return [torch.randn(shape, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2).requires_grad_()
            for _ in range(4)]


def measure(attention, length, width, backward=True):
    """Seconds of a forward and of a backward, which may be left out."""
    sets = [inputs(length, width) for _ in range(3)]

    def forward(i):
        with torch.no_grad():
            attention(*sets[i % 3][:3])

    if not backward:
        return median_seconds(forward), None
    results = [attention(*s[:3]) for s in sets]

    def gradients(i):
        q, k, v, weights = sets[i % 3]
        torch.autograd.grad(results[i % 3], (q, k, v), weights, retain_graph=True)

    return median_seconds(forward), median_seconds(gradients)


def report(name, length, width, pairs, seconds, as_json):
    forward, backward = seconds
    flops = 4 * HEADS * width * pairs
    row = {
        "peer": name, "length": length, "width": width,
        "forward_us": round(forward * 1e6, 1), "forward_tflops": round(flops / forward / 1e12, 1),
    }
    if backward:
        row["backward_us"] = round(backward * 1e6, 1)
        row["backward_tflops"] = round(2.5 * flops / backward / 1e12, 1)
        row["both_tflops"] = round(3.5 * flops / (forward + backward) / 1e12, 1)
    print(json.dumps(row) if as_json else "  ".join(f"{k} {v}" for k, v in row.items()), flush=True)


def sdpa(backend, causal):
    def attention(q, k, v):
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return attention


def dense(length, width, as_json):
    for causal in (True, False):
        for name, backend in BACKENDS.items():
            attention = sdpa(backend, causal)
            pairs = length * (length + 1) / 2 if causal else length * length
            title = f"sdpa {name} {'causal' if causal else 'full'}"
            report(title, length, width, pairs, measure(attention, length, width), as_json)


def long(_, width, as_json):
    length = 131072
    seconds = measure(sdpa(SDPBackend.FLASH_ATTENTION, True), length, width, backward=False)
    report("sdpa flash causal", length, width, length * (length + 1) / 2, seconds, as_json)


def flex(title, visible, pairs, length, width, as_json):
    torch._dynamo.reset()
    mask = create_block_mask(visible, None, None, length, length, device=DEVICE, BLOCK_SIZE=BLOCK)
    compiled = torch.compile(flex_attention, dynamic=False)
    seconds = measure(lambda q, k, v: compiled(q, k, v, block_mask=mask), length, width)
    report(title, length, width, pairs, seconds, as_json)


def window(length, width, as_json):
    pairs = length * WINDOW - WINDOW * (WINDOW - 1) / 2

    def visible(b, h, i, j):
        return (i >= j) & (i - j < WINDOW)

    flex(f"flex window {WINDOW}", visible, pairs, length, width, as_json)


def blocks(length, width, as_json):
    count = length // BLOCK
    keep = torch.rand(count, count, generator=torch.Generator().manual_seed(0)) < 0.1
    keep = (keep | torch.eye(count, dtype=torch.bool)).to(DEVICE)

    def visible(b, h, i, j):
        return keep[i // BLOCK, j // BLOCK]

    share = 100 - 100 * float(keep.float().mean())
    flex(f"flex {share:.1f} % sparse", visible, float(keep.sum()) * BLOCK**2, length, width, as_json)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"dense": dense, "window": window, "blocks": blocks, "long": long}
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; default: all")
    parser.add_argument("--lengths", default="4096,8192,32768", help="tokens, separated by commas")
    parser.add_argument("--widths", default="64,128", help="of a head")
    parser.add_argument("--json", action="store_true", help="a JSON object per line")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(parts):
        parser.error(f"unknown: {', '.join(unknown)}")
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU"
    print(f"# torch {torch.__version__} on {name}", flush=True)
    for part in options.parts or parts:
        for width in map(int, options.widths.split(",")):
            lengths = [None] if part == "long" else map(int, options.lengths.split(","))
            for length in lengths:
                try:
                    parts[part](length, width, options.json)
                except RuntimeError as error:
                    print(f"# {part} {length} {width}: {str(error).splitlines()[0]}", flush=True)


main()
