// Comparison of modules on a CUDA device with the CPU in f64: outputs, gradients of inputs and of
// every parameter, and buffers.
//
// In f32 the rule of support.h holds. In bf16, where errors of many roundings add up, the norm of a
// tensor's error is held to the largest of
//   eight units in the last place of the tensor's norm, or of 1/100;
//   twice what the f64 computation answers to weights and inputs off by half a unit (the worst of
//     four draws): much beside a kink or a tie, less than eight units elsewhere. Never over half
//     of the norm or, if that is more, an eighth of a unit of the norm of all gradients;
//   that eighth, for a gradient whose terms cancel (a bias that softmax does not see): zero in f64,
//     in halves as large as the roundings of the terms, which are of the size of other gradients.
// So whatever is missing, doubled or turned fails, if it is no smaller than such roundings. A case
// of tests/models shows both sides of the rule on the CPU.
#pragma once

#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/nn/check.h"
#include "tessera/tests/support.h"

namespace tessera::test {

using MakeModule = std::function<std::unique_ptr<Module>()>;

// Each entry times 1 + e, |e| at most half a unit in the last place of `dtype`.
inline void disturb(const Tensor& x, DType dtype, RandomKey key) {
  const NoGrad off;
  const double half = unit_in_last_place(dtype) / 2;
  const Tensor factor = empty(x.shape(), {x.dtype(), {}});
  kernels::uniform(factor, 1 - half, 1 + half, key);
  kernels::copy(x, x.detach() * factor);
}

// The module's weights and the inputs are rounded to `dtype` and stored as `stored`; with a `draw`
// they are off by such a rounding once more (on the CPU).
inline Results evaluate_module(const MakeModule& make, const ModuleFunction& run,
                               const TensorList& inputs, DType dtype, DType stored, Device device,
                               std::optional<uint64_t> draw = {}) {
  RandomScope scope(7);
  const auto module = make();
  module->to(dtype);
  module->to(stored);
  module->to(device);
  const TensorList moved = inputs_for(inputs, dtype, stored, device, true);
  if (draw) {
    uint64_t index = 0;
    for (const auto& [name, parameter] : module->parameters()) {
      disturb(parameter, dtype, {*draw, index++});
    }
    for (const Tensor& x : moved) {
      if (x.defined() && x.requires_grad()) disturb(x, dtype, {*draw, index++});
    }
  }
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

inline double norm_of_error(const Tensor& got, const Tensor& want) {
  const std::vector<double> a = got.to_vector<double>();
  std::vector<double> b = want.to_vector<double>();
  if (a.size() != b.size()) return INFINITY;
  for (size_t j = 0; j < b.size(); ++j) b[j] -= a[j];
  return norm_of(b);
}

// What the norms of errors may be: the module in f64, and beside roundings of its numbers.
struct NormRule {
  Results want;
  std::vector<double> norms, bounds;

  NormRule(const MakeModule& make, const ModuleFunction& run, const TensorList& inputs,
           DType dtype);
};

inline NormRule::NormRule(const MakeModule& make, const ModuleFunction& run,
                          const TensorList& inputs, DType dtype)
    : want(evaluate_module(make, run, inputs, dtype, DType::f64, {})) {
  constexpr uint64_t kDraws = 4;
  std::vector<double> answers(want.size());
  for (uint64_t draw = 0; draw < kDraws; ++draw) {
    const Results near = evaluate_module(make, run, inputs, dtype, DType::f64, {}, draw);
    for (size_t i = 0; i < want.size(); ++i) {
      answers[i] = std::max(answers[i], norm_of_error(near[i].second, want[i].second));
    }
  }
  const auto is_gradient = [&](size_t i) { return want[i].first.starts_with("gradient"); };
  double squares = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    norms.push_back(norm_of(want[i].second.to_vector<double>()));
    if (is_gradient(i)) squares += norms[i] * norms[i];
  }
  const double unit = unit_in_last_place(dtype), all = std::sqrt(squares), least = unit / 8 * all;
  for (size_t i = 0; i < want.size(); ++i) {
    const bool cancels = is_gradient(i) && norms[i] <= 1e-12 * all;
    const double most = std::max(norms[i] / 2, is_gradient(i) ? least : 0);
    bounds.push_back(std::max({8 * unit * std::max(norms[i], 1e-2), std::min(2 * answers[i], most),
                               cancels ? least : 0}));
  }
}

inline void compare_norms(Failures& failures, const std::string& subject, const Results& got,
                          const NormRule& rule) {
  if (got.size() != rule.want.size()) {
    failures.add(subject,
                 fmt::format("{} results, the CPU gives {}", got.size(), rule.want.size()));
  }
  for (size_t i = 0; i < std::min(got.size(), rule.want.size()); ++i) {
    failures.compared();
    const double error = norm_of_error(got[i].second, rule.want[i].second);
    if (error <= rule.bounds[i]) continue;  // false for NaN
    failures.add(subject, fmt::format("{} {}: off by {:.3g} in norm, allowed {:.3g} (norm {:.3g})",
                                      got[i].first, got[i].second.shape(), error, rule.bounds[i],
                                      rule.norms[i]));
  }
}

inline void check_module_on_gpu(Failures& failures, const std::string& subject,
                                const MakeModule& make, const ModuleFunction& run,
                                const TensorList& inputs, DType dtype) {
  Results got, again;
  const bool ran = attempt_case(failures, subject, "module", [&] {
    got = evaluate_module(make, run, inputs, dtype, dtype, kGpu);
    again = evaluate_module(make, run, inputs, dtype, dtype, kGpu);
    if (is_half(dtype)) {
      compare_norms(failures, subject, got, NormRule(make, run, inputs, dtype));
    } else {
      const Results want = evaluate_module(make, run, inputs, dtype, DType::f64, {});
      compare(failures, subject, "module", dtype, got, want);
    }
  });
  if (ran) compare_bits(failures, subject, "module", got, again);
}

}  // namespace tessera::test
