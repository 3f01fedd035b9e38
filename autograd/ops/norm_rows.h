// Normalisation of rows and its gradient as kernels; norm.cpp makes ops of them.
#pragma once

#include <string_view>

#include "tessera/core/tensor.h"

namespace tessera::detail {

// Tensors are dense, (rows, size) or of as many elements; weight, bias and what belongs to the
// branch may be absent. `stats` (rows, 2) holds μ and 1 / √(σ² + ε), for the halves in f32.
struct NormRows {
  std::string_view op;  // begins errors
  bool centered;        // else μ = 0: the root mean square
  int64_t size;         // of a row
  double eps;

  int64_t rows(const Tensor& x) const { return size == 0 ? 0 : x.numel() / size; }

  struct Forward {
    Tensor x, branch, weight, bias;
    Tensor sum, y, stats;  // results; sum = x + branch, with a branch
  };
  // y = (s − μ) / √(σ² + ε) · weight + bias with s = x + branch, rounded to its dtype, or s = x.
  void forward(const Forward& f) const;

  struct Backward {
    Tensor s, weight, grad, residual, stats;
    Tensor gs, gw, gb;  // results; gw and gb may be unwanted (undefined)
  };
  // gs = the gradient through y, plus `residual`.
  void backward(const Backward& b) const;
};

}  // namespace tessera::detail
