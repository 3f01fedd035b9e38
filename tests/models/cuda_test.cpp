// Every registered mechanism and model on a CUDA device against the CPU in f64.
#include "tessera/models/conformance.h"
#include "tessera/tests/module_support.h"

using namespace tessera;
using namespace tessera::test;

// The rule that half precision is held to must let roundings pass and nothing else.
TEST_CASE("in bf16, numbers rounded otherwise pass and gradients left out do not") {
  for (const ModuleSample& sample : module_samples()) {
    const std::string subject = sample.kind + " " + sample.name;
    const NormRule rule(sample.make, sample.run, sample.inputs, DType::bf16);
    Failures rounded("rounded otherwise"), missing("left out");
    const Results near = evaluate_module(sample.make, sample.run, sample.inputs, DType::bf16,
                                         DType::f64, {}, uint64_t{99});
    compare_norms(rounded, subject, near, rule);
    rounded.report();
    Results changed = rule.want;
    int64_t large = 0;
    for (size_t i = 0; i < changed.size(); ++i) {
      changed[i].second = zeros(changed[i].second.shape(), {DType::f64, {}});
      if (rule.norms[i] > 1e-3) ++large;
    }
    compare_norms(missing, subject, changed, rule);
    CHECK_MESSAGE(missing.total() >= large, subject);
  }
}

TEST_SUITE("cuda") {
  TEST_CASE("every registered mechanism and model gives on CUDA what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      Failures failures(fmt::format("modules in {}", dtype));
      for (const ModuleSample& sample : module_samples()) {
        if (sample.kind == "layer") continue;  // tests/nn checks the layers
        check_module_on_gpu(failures, sample.kind + " " + sample.name, sample.make, sample.run,
                            sample.inputs, dtype);
      }
      failures.report();
    }
  }
}
