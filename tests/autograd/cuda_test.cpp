// Every registered op on a CUDA device, on every one of its samples and in every floating dtype:
// results and gradients against the CPU in f64, the same bits in a second run and when replayed
// from a recorded graph, and refusal of inputs that lie on different devices. TESSERA_TEST_OPS (a
// regular expression of names) picks some ops.
#include <cstdlib>
#include <regex>

#include "tessera/autograd/ops/activation.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/norm.h"
#include "tessera/autograd/ops/scan.h"
#include "tessera/autograd/ops/softmax.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/cuda/capture.h"
#include "tessera/core/view.h"
#include "tessera/tests/support.h"

using namespace tessera;
using namespace tessera::test;

namespace {

std::vector<const OpInfo*> chosen_ops() {
  const char* pattern = std::getenv("TESSERA_TEST_OPS");
  if (pattern == nullptr) return OpRegistry::instance().all();
  std::vector<const OpInfo*> list;
  for (const OpInfo* op : OpRegistry::instance().all()) {
    if (std::regex_search(op->name, std::regex(pattern))) list.push_back(op);
  }
  return list;
}

struct Case {
  const OpInfo& op;
  const OpSample& sample;
  DType dtype;

  bool differentiate() const { return op.orders >= 1; }
  std::string subject() const { return fmt::format("{} {}", op.name, dtype); }

  Results on_cpu() const {
    return evaluate(sample.run, inputs_for(sample.inputs, dtype, DType::f64, {}, differentiate()),
                    dtype);
  }
  Results on_gpu(const TensorFunction& run) const {
    return evaluate(run, inputs_for(sample.inputs, dtype, dtype, kGpu, differentiate()), dtype);
  }
};

void check_case(Failures& failures, const Case& c) {
  const std::string subject = c.subject();
  const std::string& label = c.sample.label;
  Results want, got, again, plain;
  const bool ran = attempt_case(failures, subject, label, [&] {
    want = c.on_cpu();
    got = c.on_gpu(c.sample.run);
  });
  if (!ran) return;
  if (is_half(c.dtype) && c.sample.definition) {
    attempt(failures, subject, label + ", definition",
            [&] { plain = c.on_gpu(c.sample.definition); });
  }
  compare(failures, subject, label, c.dtype, got, want, plain);
  if (attempt(failures, subject, label, [&] { again = c.on_gpu(c.sample.run); })) {
    compare_bits(failures, subject, label, got, again);
  }
}

// The op and its gradient recorded into a graph: nothing in them waits for the device, and a replay
// gives the bits of the eager run.
void check_recording(Failures& failures, const OpInfo& op, const OpSample& sample) {
  const TensorList inputs = inputs_for(sample.inputs, DType::f32, DType::f32, kGpu, op.orders >= 1);
  TensorList wanted, weights;
  for (const Tensor& x : inputs) {
    if (x.defined() && x.requires_grad()) wanted.push_back(x);
  }
  const auto work = [&] {
    RandomScope scope(7);
    TensorList results, used;
    for (const Tensor& y : sample.run(inputs)) {
      if (!y.defined()) continue;
      results.push_back(y.detach());
      if (y.requires_grad()) used.push_back(y);
    }
    for (size_t i = weights.size(); i < used.size(); ++i) {
      weights.push_back(cotangent(used[i], i, DType::f32));
    }
    if (used.empty() || wanted.empty()) return results;
    for (const Tensor& g : grad(used, wanted, weights)) {
      if (g.defined()) results.push_back(g);
    }
    return results;
  };
  const auto named = [](const TensorList& results) {
    Results list;
    for (size_t i = 0; i < results.size(); ++i) {
      list.emplace_back("result " + std::to_string(i), kernels::to_device(results[i], {}));
    }
    return list;
  };
  attempt(failures, op.name, sample.label, [&] {
    const Results eager = named(work());
    TensorList recorded;
    if constexpr (kCuda) {
      const CapturedGraph graph(kGpu, [&] { recorded = work(); });
      graph.replay();
      compare_bits(failures, op.name, sample.label + ", recorded", eager, named(recorded));
    }
  });
}

// Calls with one input left on the CPU.
void check_mixed_devices(Failures& failures, const OpInfo& op, const OpSample& sample) {
  const TensorList here = inputs_for(sample.inputs, DType::f32, DType::f32, {});
  const TensorList there = inputs_for(sample.inputs, DType::f32, DType::f32, kGpu);
  int64_t defined = 0;
  for (const Tensor& x : here) defined += x.defined();
  if (defined < 2) return;
  for (size_t i = 0; i < here.size(); ++i) {
    if (!here[i].defined()) continue;
    TensorList mixed = there;
    mixed[i] = here[i];
    std::string message = "no error";
    attempt(failures, op.name, fmt::format("{}, input {} on the CPU", sample.label, i), [&] {
      try {
        sample.run(mixed);
        synchronize(kGpu);
      } catch (const Error& error) {
        message = error.what();
      }
      synchronize(kGpu);
    });
    failures.compared();
    if (message.starts_with(op.name)) continue;
    failures.add(op.name, fmt::format("[{}] input {} on the CPU: {}", sample.label, i, message));
  }
}

using Unary = std::function<Tensor(const Tensor&)>;

// On rows that are all alike, f and its gradient give in every row of a large tensor what they give
// in a small one. `f` maps rows to rows.
void check_large(Failures& failures, const std::string& name, const Tensor& row, int64_t rows,
                 const Unary& f) {
  const auto run = [&](int64_t count) {
    Tensor x = kernels::clone(views::expand(row, {count, row.numel()}));
    x.set_requires_grad();
    const Tensor y = f(x);
    return TensorList{y.detach(), grad({y}, {x}, {kernels::clone(y.detach())})[0]};
  };
  attempt(failures, name, "large", [&] {
    const TensorList small = run(8), large = run(rows);
    for (size_t i = 0; i < small.size(); ++i) {
      const Tensor want = kernels::to_device(views::select(small[i], 0, 3), {});
      for (int64_t at : {int64_t{0}, rows / 2 + 1, rows - 4, rows - 1}) {
        const Tensor got = kernels::to_device(views::select(large[i], 0, at), {});
        const Distance d = distance(got, want);
        failures.compared();
        if (d.worst <= unit_in_last_place(DType::bf16) * d.scale) continue;
        failures.add(name, fmt::format("{} row {} entry {}: {:.6g}, in a small tensor {:.6g}",
                                       i == 0 ? "result" : "gradient", at, d.at, d.got, d.want));
      }
    }
  });
  allocator(kGpu).release_cached();
}

}  // namespace

TEST_SUITE("cuda") {
  TEST_CASE("every registered op gives on CUDA what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    for (DType dtype : kFloating) {
      Failures failures(fmt::format("ops in {}", dtype));
      for (const OpInfo* op : chosen_ops()) {
        CAPTURE(op->name);
        for (const OpSample& sample : op->samples()) check_case(failures, {*op, sample, dtype});
      }
      failures.report();
    }
  }

  TEST_CASE("every registered op can be recorded into a graph and replayed to the same bits") {
    if (!has_gpu()) return;
    Failures failures("recorded ops");
    for (const OpInfo* op : chosen_ops()) {
      CAPTURE(op->name);
      if (!op->reads_values.empty()) continue;  // nothing to record, as the row says
      for (const OpSample& sample : op->samples()) check_recording(failures, *op, sample);
    }
    failures.report();
  }

  TEST_CASE("ops take tensors of more than 2³¹ elements") {
    constexpr int64_t kRow = 1 << 14;
    constexpr int64_t kRows = (1 << 17) + 5;  // 2³¹ elements and five rows
    if (!has_gpu_memory(10 * 2 * kRow * kRows)) return;
    Failures failures("large tensors");
    const Tensor row = placed(samples::normal({1, kRow}), DType::bf16, kGpu);
    const Tensor other = placed(samples::uniform({kRow}, 0.5, 2), DType::bf16, kGpu);
    const std::pair<const char*, Unary> functions[] = {
        {"gelu", [](const Tensor& x) { return gelu(x); }},
        {"mul, broadcast", [&](const Tensor& x) { return mul(x, other); }},
        {"sum of rows", [](const Tensor& x) { return sum(x, {1}, true); }},
        {"softmax", [](const Tensor& x) { return softmax(x, -1); }},
        {"layer_norm", [&](const Tensor& x) { return layer_norm(x, other, other); }},
        {"slice", [](const Tensor& x) { return slice(x, 1, 1, kRow, 2); }},
        {"transposed and back",
         [](const Tensor& x) { return transpose(contiguous(transpose(x, 0, 1)), 0, 1); }},
        {"cumsum", [](const Tensor& x) { return cumsum(x, 1); }},
    };
    for (const auto& [name, f] : functions) check_large(failures, name, row, kRows, f);
    failures.report();
  }

  TEST_CASE("every registered op refuses inputs on different devices") {
    if (!has_gpu()) return;
    Failures failures("mixed devices");
    for (const OpInfo* op : chosen_ops()) {
      CAPTURE(op->name);
      const std::vector<OpSample> samples = op->samples();
      if (!samples.empty()) check_mixed_devices(failures, *op, samples.front());
    }
    failures.report();
  }
}
