// Comparison of modules on a CUDA device with the CPU in f64: outputs, gradients of inputs and of
// every parameter, and buffers.
//
// In f32 the rule of support.h holds. In bf16, where errors of many roundings add up, each tensor
// must be finite and within eight units in the last place of the norm of the f64 one.
#pragma once

#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

namespace tessera::test {

using MakeModule = std::function<std::unique_ptr<Module>()>;

// The module's weights and the inputs are rounded to `dtype` and stored as `stored`.
inline Results evaluate_module(const MakeModule& make, const ModuleFunction& run,
                               const TensorList& inputs, DType dtype, DType stored, Device device) {
  RandomScope scope(7);
  const auto module = make();
  module->to(dtype);
  module->to(stored);
  module->to(device);
  const TensorList moved = inputs_for(inputs, dtype, stored, device, true);
  TensorList wanted;
  std::vector<std::string> names;
  for (size_t i = 0; i < moved.size(); ++i) {
    if (!moved[i].requires_grad()) continue;
    wanted.push_back(moved[i]);
    names.push_back("gradient " + std::to_string(i));
  }
  for (const auto& [name, parameter] : module->parameters()) {
    if (!parameter.requires_grad()) continue;
    wanted.push_back(parameter);
    names.push_back("gradient of " + name);
  }
  const TensorList outputs = run(*module, moved);
  Results results;
  add_outputs(results, outputs);
  add_gradients(results, outputs, wanted, names, dtype);
  for (const auto& [name, buffer] : module->buffers()) {
    results.emplace_back("buffer " + name, kernels::to_device(buffer, {}));
  }
  return results;
}

inline double norm_of(const std::vector<double>& values) {
  double sum = 0;
  for (double v : values) sum += v * v;
  return std::sqrt(sum);
}

inline void compare_norms(Failures& failures, const std::string& subject, const Results& got,
                          const Results& want, DType dtype) {
  for (size_t i = 0; i < std::min(got.size(), want.size()); ++i) {
    failures.compared();
    const std::vector<double> a = got[i].second.to_vector<double>();
    std::vector<double> b = want[i].second.to_vector<double>();
    const double size = norm_of(b);
    for (size_t j = 0; j < std::min(a.size(), b.size()); ++j) b[j] -= a[j];
    const double error = norm_of(b), bound = 8 * unit_in_last_place(dtype) * std::max(size, 1e-2);
    if (error <= bound) continue;  // false for NaN
    failures.add(subject, fmt::format("{} {}: off by {:.3g} in norm, allowed {:.3g} (norm {:.3g})",
                                      got[i].first, got[i].second.shape(), error, bound, size));
  }
}

inline void check_module_on_gpu(Failures& failures, const std::string& subject,
                                const MakeModule& make, const ModuleFunction& run,
                                const TensorList& inputs, DType dtype) {
  Results want, got, again;
  const bool ran = attempt(failures, subject, "module", [&] {
    want = evaluate_module(make, run, inputs, dtype, DType::f64, {});
    got = evaluate_module(make, run, inputs, dtype, dtype, kGpu);
    again = evaluate_module(make, run, inputs, dtype, dtype, kGpu);
  });
  if (!ran) return;
  if (is_half(dtype)) {
    compare_norms(failures, subject, got, want, dtype);
  } else {
    compare(failures, subject, "module", dtype, got, want);
  }
  compare_bits(failures, subject, "module", got, again);
}

}  // namespace tessera::test
