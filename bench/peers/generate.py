"""Generation with GPT-2 124M in transformers, beside `tessera bench generate` on the same machine.

    python3 bench/peers/generate.py --tessera build/cuda/tessera     # both, in one table
    python3 bench/peers/generate.py --variants eager --batch 1 --dtype f32

GPT2LMHeadModel with random weights, 12 layers, 12 heads, 768, vocabulary 50257; prompts of random
tokens; `generate` with its growing cache (eager), and with a static cache, whose steps it compiles
(torch.compile, reduce-overhead). Greedy, and drawn from the 50 most probable. Time is the median of
some calls of `generate` as a whole after two that are not counted; the prompt's time is that of a
call for one token, a step's the rest divided by the tokens that follow. The seconds of the first call
stand beside: a batch size is compiled in the first call of its first row.
"""

import argparse
import gc
import json
import statistics
import subprocess
import time

import torch
import transformers

VARIANTS = ("eager", "static+compile")
CHOICES = {"greedy": dict(do_sample=False), "top-k": dict(do_sample=True, top_k=50)}
DTYPES = {"bf16": torch.bfloat16, "f32": torch.float32}


def build(variant, dtype):
    torch.manual_seed(0)
    torch._dynamo.reset()
    gc.collect()
    torch.cuda.empty_cache()
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(vocab_size=50257))
    model = model.to("cuda", DTYPES[dtype]).eval()
    if variant == "static+compile":
        # generate then records the steps itself; a forward compiled from outside would make the
        # cache inside the recording, which a replay overwrites.
        model.generation_config.cache_implementation = "static"
    return model


def measure(model, batch, choice, options):
    ids = torch.randint(0, 50257, (batch, options.prompt), device="cuda")
    mask = torch.ones_like(ids)

    def seconds(tokens):
        torch.cuda.synchronize()
        started = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(ids, attention_mask=mask, max_new_tokens=tokens,
                                 min_new_tokens=tokens, pad_token_id=50256, **CHOICES[choice])
        torch.cuda.synchronize()
        assert out.shape == (batch, options.prompt + tokens)
        return time.perf_counter() - started

    def median(tokens):
        warm = [seconds(tokens) for _ in range(2)]
        return warm[0], statistics.median(seconds(tokens) for _ in range(options.repeats))

    first, whole = median(options.tokens)
    _, prefill = median(1)
    return dict(batch=batch, choice=choice, prefill_ms=1e3 * prefill,
                step_ms=1e3 * (whole - prefill) / (options.tokens - 1),
                tokens_per_second=batch * options.tokens / whole, first_s=first)


def show(row, as_json):
    if as_json:
        print(json.dumps(row), flush=True)
    elif "error" in row:
        print(f"{row['variant']:<18} {row['batch']:>5} {row['choice']:<8} {row['error']}", flush=True)
    else:
        first = f"{row['first_s']:>9.1f}" if "first_s" in row else ""
        print(f"{row['variant']:<18} {row['batch']:>5} {row['choice']:<8} {row['prefill_ms']:>11.2f} "
              f"{row['step_ms']:>9.3f} {row['tokens_per_second']:>10.0f}{first}", flush=True)


def main():
    parser = argparse.ArgumentParser(description="time transformers' generate with GPT-2 124M")
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: all, by commas")
    parser.add_argument("--batch", default="1,64")
    parser.add_argument("--prompt", type=int, default=128, help="tokens of a prompt")
    parser.add_argument("--tokens", type=int, default=256, help="tokens to add")
    parser.add_argument("--dtype", choices=DTYPES, default="bf16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--choices", default=",".join(CHOICES), help="default: all, by commas")
    parser.add_argument("--tessera", help="the program, whose rows come first")
    parser.add_argument("--config", default="configs/gpt2_124m.json", help="the program's config")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    options = parser.parse_args()
    torch.set_float32_matmul_precision("high")
    if not options.json:
        print(f"PyTorch {torch.__version__}, transformers {transformers.__version__} on "
              f"{torch.cuda.get_device_name()}: GPT-2 124M in {options.dtype}, {options.tokens} "
              f"tokens after {options.prompt}")
        print(f"{'variant':<18} {'batch':>5} {'choice':<8} {'prefill ms':>11} {'ms/step':>9} "
              f"{'tokens/s':>10} {'first s':>8}")
    if options.tessera:
        lines = subprocess.run(
            [options.tessera, "bench", "generate", options.config, "--json",
             *sum((["--batch", b] for b in options.batch.split(",")), []), "--prompt",
             str(options.prompt), "--tokens", str(options.tokens), "--repeats",
             str(options.repeats), "--device", "cuda", "--precision",
             "tf32" if options.dtype == "f32" else options.dtype, "--set", "data.vocabulary=50257"],
            check=True, stdout=subprocess.PIPE, text=True).stdout
        for line in lines.splitlines():
            show(json.loads(line), options.json)
    for variant in options.variants.split(","):
        model = build(variant, options.dtype)
        for batch in map(int, options.batch.split(",")):
            for choice in options.choices.split(","):
                try:
                    row = dict(variant=variant, **measure(model, batch, choice, options))
                except Exception as error:  # one that does not run should not hide the others
                    reason = f"{type(error).__name__}: {str(error)[:200]}"
                    row = dict(variant=variant, batch=batch, choice=choice, error=reason)
                show(row, options.json)


if __name__ == "__main__":
    main()
