"""Chunked linear attention with decay in PyTorch, to run beside `bench_linear_cuda` on one machine.

    python3 bench/peers/linear.py                     # n = 2k … 128k at 131072 tokens, and B 1, n = 32k
    python3 bench/peers/linear.py --lengths 32768 --variants eager --json

o_t = Σ_{s ≤ t} exp((t − s) g) (q_t·k_s) v_s with one g per head, bf16, H 16, D 64. Inside a chunk a
masked product, between chunks the states, which one product with the matrix of all decays between
chunks adds up (quadratic in the number of chunks, the fastest of the plain forms at these lengths).
A token is one of a sequence, with all its heads. Time is the median over groups of calls, with the
device waited for around each group; inputs take turns, so that none waits in a cache.
"""

import argparse
import json
import statistics
import time

import torch

HEADS, WIDTH, TOKENS = 16, 64, 131072


def linear_attention(q, k, v, log_decay, chunk):
    batch, heads, length, width = q.shape
    count = length // chunk
    q, k, v = (x.reshape(batch, heads, count, chunk, width) for x in (q, k, v))
    g = log_decay[:, None]
    t = torch.arange(chunk, device=q.device)
    apart = t[:, None] - t
    between = torch.where(apart >= 0, torch.exp(g[..., None] * apart.clamp(min=0)), 0.0)
    inside = ((q @ k.transpose(-1, -2)) * between[:, None].to(q.dtype)) @ v
    before = torch.exp(g * (t + 1))[:, None, :, None].to(q.dtype)
    after = torch.exp(g * (chunk - 1 - t))[:, None, :, None].to(q.dtype)
    added = (k * after).transpose(-1, -2) @ v
    c = torch.arange(count, device=q.device)
    gap = c[:, None] - c - 1
    carried = torch.where(gap >= 0, torch.exp(g[..., None] * chunk * gap.clamp(min=0)), 0.0)
    entering = carried.to(q.dtype) @ added.reshape(batch, heads, count, width * width)
    crossing = (q * before) @ entering.reshape(batch, heads, count, width, width)
    return (inside + crossing).reshape(batch, heads, length, width)


def inputs_of(batch, length, device):
    shape = (batch, HEADS, length, WIDTH)
    make = lambda: (0.1 * torch.randn(shape, device=device)).bfloat16()
    return [make().requires_grad_() for _ in range(3)] + [make()]


def seconds_of(call, device):
    def timed(calls):
        if device == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        for i in range(calls):
            call(i)
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    timed(3)
    calls = int(min(max(0.02 / timed(3), 3), 300))
    return statistics.median(timed(calls) for _ in range(9))


def check(function, log_decay, device):
    """The relative error against the quadratic form in float64, on a short sequence."""
    q, k, v, _ = (x.detach() for x in inputs_of(1, 512, device))
    t = torch.arange(512, device=device)
    apart = (t[:, None] - t).double()
    weights = torch.where(apart >= 0, torch.exp(log_decay.double()[:, None, None] * apart.clamp(min=0)), 0.0)
    want = ((q.double() @ k.double().transpose(-1, -2)) * weights) @ v.double()
    return ((function(q, k, v, log_decay, 128).double() - want).norm() / want.norm()).item()


def measure(variant, batch, length, chunk, device):
    torch._dynamo.reset()
    log_decay = torch.linspace(-0.1, -0.001, HEADS, device=device)
    function = torch.compile(linear_attention, dynamic=False) if variant == "compile" else linear_attention
    inputs = [inputs_of(batch, length, device) for _ in range(2)]

    def forward(i):
        q, k, v, _ = inputs[i % 2]
        with torch.no_grad():
            function(q, k, v, log_decay, chunk)

    def both(i):
        q, k, v, weights = inputs[i % 2]
        torch.autograd.grad(function(q, k, v, log_decay, chunk), (q, k, v), weights)

    row = {"variant": variant, "batch": batch, "length": length, "chunk": chunk}
    for name, call in (("forward", forward), ("forward_backward", both)):
        seconds = seconds_of(call, device)
        row[name + "_us"] = round(seconds * 1e6, 1)
        row[name + "_mtok_s"] = round(batch * length / seconds / 1e6, 1)
    return row


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--variants", default="eager,compile")
    parser.add_argument("--lengths", default="2048,8192,32768,131072")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    parser.add_argument("--chunk", type=int, default=128)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    log_decay = torch.linspace(-0.1, -0.001, HEADS, device=options.device)
    print(f"# torch {torch.__version__}, relative error {check(linear_attention, log_decay, options.device):.1e}")
    shapes = [(max(1, options.tokens // int(n)), int(n)) for n in options.lengths.split(",")]
    for variant in options.variants.split(","):
        for batch, length in dict.fromkeys(shapes + [(1, min(32768, options.tokens))]):
            try:
                row = measure(variant, batch, length, options.chunk, options.device)
            except torch.OutOfMemoryError:
                row = {"variant": variant, "batch": batch, "length": length, "error": "out of memory"}
            if options.json:
                print(json.dumps(row), flush=True)
            else:
                print("  ".join(f"{key} {value}" for key, value in row.items()), flush=True)


if __name__ == "__main__":
    main()
