// Every registered op on a CUDA device, on every one of its samples and in every floating dtype:
// results and gradients against the CPU in f64, the same bits in a second run, and refusal of
// inputs that lie on different devices. TESSERA_TEST_OPS (a regular expression of names) picks some
// ops.
#include <cstdlib>
#include <regex>

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
  bool recorded() const { return op.orders >= 2 && dtype == DType::f64; }
  std::string subject() const { return fmt::format("{} {}", op.name, dtype); }

  Results on_cpu() const {
    return evaluate(sample.run, inputs_for(sample.inputs, dtype, DType::f64, {}, differentiate()),
                    dtype, recorded());
  }
  Results on_gpu(const TensorFunction& run) const {
    return evaluate(run, inputs_for(sample.inputs, dtype, dtype, kGpu, differentiate()), dtype,
                    recorded());
  }
};

void check_case(Failures& failures, const Case& c) {
  const std::string subject = c.subject();
  const std::string& label = c.sample.label;
  Results want, got, again, plain;
  const bool ran = attempt(failures, subject, label, [&] {
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
