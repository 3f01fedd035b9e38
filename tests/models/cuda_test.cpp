// Every registered mechanism and model on a CUDA device against the CPU in f64.
#include "tessera/models/conformance.h"
#include "tessera/tests/module_support.h"

using namespace tessera;
using namespace tessera::test;

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
