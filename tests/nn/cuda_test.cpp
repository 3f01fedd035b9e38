// Every registered layer on a CUDA device against the CPU in f64.
#include "tessera/tests/module_support.h"

using namespace tessera;
using namespace tessera::test;

TEST_SUITE("cuda") {
  TEST_CASE("every registered layer gives on CUDA what it gives on the CPU in f64") {
    if (!has_gpu()) return;
    for (DType dtype : {DType::f64, DType::f32, DType::bf16}) {
      Failures failures(fmt::format("layers in {}", dtype));
      for (const LayerInfo* layer : LayerRegistry::instance().all()) {
        const MakeModule make = [layer] {
          RandomScope scope(1);
          return layer->make();
        };
        check_module_on_gpu(failures, layer->name, make, layer->run, layer->inputs(), dtype);
      }
      failures.report();
    }
  }
}
