// An optimizer that is an update rule for single elements.
#pragma once

#include "tessera/train/optimizer.h"
#include "tessera/train/optimizer_cuda.h"

namespace tessera {

template <class Rule>
class ElementwiseOptimizer : public Optimizer {
 protected:
  ElementwiseOptimizer(const std::vector<Parameter>& parameters, const Rule& rule,
                       std::initializer_list<const char*> slots)
      : Optimizer(parameters), rule_(rule) {
    for (const char* name : slots) add_slot(name);
  }

  void update(const Piece& p, const StepScalars& scalars, float scale) const final {
    const Rule rule = rule_;
    const StepScalars s = scalars;
    float* a = slot(0, p.parameter) + p.begin;
    float* b = Rule::kSlots > 1 ? slot(Rule::kSlots - 1, p.parameter) + p.begin : a;
#pragma omp simd
    for (int64_t i = 0; i < p.count; ++i) {
      rule(p.value[i], p.grad[i] * scale, a[i], b[i], s, p.decay);
    }
  }

  void update_on_device(const Tensor& state) final {
    if constexpr (kCuda) table().update(rule_, state);
  }

 private:
  Rule rule_;
};

}  // namespace tessera
