"""Training steps of a GPT in PyTorch, to run beside `tessera bench step` on the same machine.

    python3 bench/peers/gpt.py gpt2            # 12 layers, 12 heads, 768, T 1024, vocabulary 50304, batch 32
    python3 bench/peers/gpt.py small           # 6 layers, 6 heads, 384, T 256, vocabulary 96, batch 64
    python3 bench/peers/gpt.py small --variants eager,compile --batch 32 --json

Conditions, the same as ours: bf16 products under autocast with f32 weights, fused AdamW (matrices
decay, vectors do not), gradient norm clipped to 1, no dropout, the head tied to the embedding,
random tokens that lie on the device. A step is forward, backward, clip, update and clearing the
gradients. Time is the median over groups of steps, with the device waited for around each group;
memory is the peak of what tensors hold during the timed steps.
"""

import argparse
import gc
import json
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F

MODELS = {
    "gpt2": dict(layers=12, heads=12, width=768, context=1024, vocabulary=50304, batch=32),
    "small": dict(layers=6, heads=6, width=384, context=256, vocabulary=96, batch=64),
    "tiny": dict(layers=2, heads=2, width=32, context=16, vocabulary=64, batch=2),  # a dry run
}
VARIANTS = {  # name: mode of torch.compile
    "eager": None,
    "compile": "default",
    "compile+graphs": "reduce-overhead",
}
GROUPS = {"gpt2": (7, 5, 5), "small": (9, 30, 20), "tiny": (3, 2, 1)}  # groups, steps, warm-up


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = (t.transpose(1, 2) for t in heads.unbind(2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Gpt(nn.Module):
    """Pre-norm, learned positions, biases everywhere; returns the mean loss."""

    def __init__(self, layers, heads, width, context, vocabulary, **_):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                nn.init.normal_(parameter, std=0.02)

    def forward(self, inputs, targets):
        x = self.tokens(inputs) + self.positions.weight[: inputs.shape[1]]
        logits = F.linear(self.norm(self.blocks(x)), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_step(model, size, device, mode):
    matrices = [p for p in model.parameters() if p.dim() >= 2]
    vectors = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
        lr=6e-4, betas=(0.9, 0.95), fused=device == "cuda")
    loss_of = torch.compile(model, mode=mode) if mode else model
    shape = (size["batch"], size["context"] + 1)
    batches = [torch.randint(0, size["vocabulary"], shape, device=device) for _ in range(4)]
    count = 0

    def step():
        nonlocal count
        tokens = batches[count % len(batches)]
        count += 1
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = loss_of(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def measure(name, variant, size, device):
    torch.manual_seed(0)
    torch._dynamo.reset()
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    model = Gpt(**size).to(device)
    step = make_step(model, size, device, VARIANTS[variant])
    groups, steps, warm_up = GROUPS[name]
    started = time.perf_counter()
    step()
    wait(device)
    first = time.perf_counter() - started
    for _ in range(warm_up):
        step()
    wait(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(groups):
        started = time.perf_counter()
        for _ in range(steps):
            step()
        wait(device)
        times.append((time.perf_counter() - started) / steps)
    median = statistics.median(times)
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return dict(model=name, variant=variant, batch=size["batch"],
                parameters=sum(p.numel() for p in model.parameters()),
                ms=median * 1e3, ms_min=min(times) * 1e3, ms_max=max(times) * 1e3,
                steps_per_second=1 / median,
                tokens_per_second=size["batch"] * size["context"] / median,
                peak_gib=peak, first_step_s=first)


def main():
    parser = argparse.ArgumentParser(description="time a GPT's training step in PyTorch")
    parser.add_argument("model", choices=MODELS)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: all, by commas")
    parser.add_argument("--batch", type=int, help="sequences per step")
    parser.add_argument("--vocabulary", type=int)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    size = dict(MODELS[options.model])
    size.update({k: v for k in ("batch", "vocabulary") if (v := getattr(options, k))})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    torch.set_float32_matmul_precision("high")

    if not options.json:
        print(f"PyTorch {torch.__version__} on {where}: {options.model} {size}")
        print(f"{'variant':<16} {'ms/step':>9} {'(min':>9} {'max)':>9} {'steps/s':>9} {'tokens/s':>10} {'peak GiB':>9}")
    for variant in options.variants.split(","):
        try:
            row = measure(options.model, variant, size, device)
        except Exception as error:  # one variant that does not run should not hide the others
            row = dict(model=options.model, variant=variant, error=f"{type(error).__name__}: {str(error)[:200]}")
        if options.json:
            print(json.dumps(row), flush=True)
        elif "error" in row:
            print(f"{variant:<16} {row['error']}", flush=True)
        else:
            print(f"{variant:<16} {row['ms']:>9.2f} {row['ms_min']:>9.2f} {row['ms_max']:>9.2f} "
                  f"{row['steps_per_second']:>9.1f} {row['tokens_per_second']:>10.0f} {row['peak_gib']:>9.2f}", flush=True)


if __name__ == "__main__":
    main()
