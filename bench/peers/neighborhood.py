"""The unfused composition of neighborhood attention in PyTorch, bf16: keys and values of every
query's window are gathered, then multiplied with it. Forward and backward together, in pieces of
queries that fit into memory, for the problems of bench_neighborhood_cuda.

    python bench/peers/neighborhood.py
"""

import itertools
import time

import torch

HEADS, WIDTH = 8, 64
PIECE = 4 << 30  # bytes of gathered keys at a time


def window_indices(shape, window):
    """(N, window ** axes): the keys that each query sees; windows shift inward at borders."""
    axes = []
    for length in shape:
        start = (torch.arange(length) - window // 2).clamp(0, length - window)
        axes.append(start[:, None] + torch.arange(window))
    total = torch.zeros([1] * (2 * len(shape)), dtype=torch.long)
    for a, index in enumerate(axes):
        size = [1] * (2 * len(shape))
        size[a], size[len(shape) + a] = index.shape
        total = total * shape[a] + index.reshape(size)
    tokens = 1
    for length in shape:
        tokens *= length
    return total.reshape(tokens, -1)


def attend(q, k, v, index):
    """q (B, H, n, D) over the keys that index (n, W) names."""
    n, w = index.shape
    flat = index.reshape(-1)
    keys = k.index_select(2, flat).reshape(*k.shape[:2], n, w, k.shape[3])
    values = v.index_select(2, flat).reshape(*v.shape[:2], n, w, v.shape[3])
    scores = torch.matmul(keys, q.unsqueeze(-1)).squeeze(-1) * q.shape[3] ** -0.5
    return torch.matmul(scores.softmax(-1).unsqueeze(-2), values).squeeze(-2)


def both(q, k, v, grad, index, piece):
    for begin in range(0, q.shape[2], piece):
        part = slice(begin, begin + piece)
        attend(q[:, :, part], k, v, index[part]).backward(grad[:, :, part])


def measure(shape, window):
    index = window_indices(shape, window).cuda()
    n, w = index.shape
    q, k, v, grad = (
        torch.randn(1, HEADS, n, WIDTH, device="cuda", dtype=torch.bfloat16) for _ in range(4)
    )
    for x in (q, k, v):
        x.requires_grad_()
    piece = max(1, min(n, PIECE // (HEADS * w * WIDTH * 2)))
    runs = 3 if n * w < 1 << 24 else 1
    for repeat in itertools.count():
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(runs):
            both(q, k, v, grad, index, piece)
        torch.cuda.synchronize()
        if repeat == 1:
            return (time.perf_counter() - start) / runs


def main():
    print(f"unfused, B 1 H {HEADS} D {WIDTH} bf16, forward and backward")
    problems = [((65536,), w) for w in (7, 15, 31, 63)]
    problems += [((128, 128), w) for w in (7, 15, 31, 63)]
    problems += [((16, 32, 32), w) for w in (7, 11, 15)]
    for shape, window in problems:
        print(f"{str(shape):<20} window {window:<4} {measure(shape, window) * 1e6:12.1f} us", flush=True)


if __name__ == "__main__":
    main()
