"""Attention over lists of keys in PyTorch, to run beside bench_gather_cuda on the same machine.

    python3 bench/peers/gather.py

Unfused, as it is usually written: the listed rows of keys and values are gathered into a tensor of
(H, N, K, D), then two products and a softmax. For groups the same with a list per group. Times are
medians over groups of calls, forward alone and backward alone, eager and compiled.
"""

import statistics
import time

import torch
import torch._functorch.config

torch._functorch.config.donated_buffer = False  # backward runs many times
HEADS, LENGTH, WIDTH = 8, 16384, 64


def rows(x, lists):  # (H, N, D) at (H, …)
    flat = lists.reshape(lists.shape[0], -1, 1).expand(-1, -1, x.shape[-1])
    return x.gather(1, flat).view(*lists.shape, x.shape[-1])


def per_query(q, k, v, lists):
    scores = torch.einsum("hnd,hnkd->hnk", q, rows(k, lists)) * q.shape[-1] ** -0.5
    return torch.einsum("hnk,hnkd->hnd", scores.softmax(-1), rows(v, lists))


def by_groups(q, k, v, lists):
    scores = rows(q, lists) @ rows(k, lists).transpose(-1, -2) * q.shape[-1] ** -0.5
    slots = scores.softmax(-1) @ rows(v, lists)
    flat = lists.reshape(lists.shape[0], -1, 1).expand(-1, -1, q.shape[-1])
    return torch.zeros_like(q).scatter_add(1, flat, slots.flatten(1, 2))


def microseconds(call):
    def timed(calls):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(calls):
            call()
        torch.cuda.synchronize()
        return (time.perf_counter() - start) / calls

    timed(2)
    calls = max(2, min(50, int(0.05 / timed(2))))
    return statistics.median(timed(calls) for _ in range(5)) * 1e6


def measure(name, function, lists):
    q, k, v, grad = (
        torch.randn(HEADS, LENGTH, WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(4)
    )
    for x in (q, k, v):
        x.requires_grad_()
    for label, run in (("eager", function), ("compiled", torch.compile(function))):
        try:
            with torch.no_grad():
                forward = microseconds(lambda: run(q, k, v, lists))
            y = run(q, k, v, lists)
            backward = microseconds(
                lambda: torch.autograd.grad(y, (q, k, v), grad, retain_graph=True)
            )
            print(f"{name:<24} {label:<10} {forward:>10.1f} {backward:>12.1f}", flush=True)
            del y
        except torch.cuda.OutOfMemoryError:
            print(f"{name:<24} {label:<10} out of memory", flush=True)
        torch.cuda.empty_cache()


def main():
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    print(f"{'bf16 H 8 N 16384 D 64':<24} {'':<10} {'forward us':>10} {'backward us':>12}")
    for listed in (64, 256):
        lists = torch.randint(LENGTH, (HEADS, LENGTH, listed), device="cuda")
        measure(f"lists of {listed}", per_query, lists)
    for group in (128, 256, 512):
        lists = torch.stack([torch.randperm(LENGTH, device="cuda") for _ in range(HEADS)])
        measure(f"groups of {group}", by_groups, lists.view(HEADS, -1, group))


if __name__ == "__main__":
    main()
