// Affine maps and table look-ups.
#pragma once

#include "tessera/nn/module.h"

namespace tessera {

// y = x Wᵀ + b. weight (out, in), bias (out) or absent; x (…, in) → (…, out).
struct Linear : Module {
  Tensor weight, bias;

  // By default weight and bias are uniform ±1/sqrt(in).
  Linear(int64_t in, int64_t out, bool with_bias = true);
  // Weight normal with the given deviation, bias 0: what transformers use.
  static Linear normal(int64_t in, int64_t out, bool with_bias, double stddev);
  static Linear truncated_normal(int64_t in, int64_t out, bool with_bias, double stddev);
  static Linear glorot(int64_t in, int64_t out);  // init::xavier_uniform, bias 0
  static Linear uniform(int64_t in, int64_t out, bool with_bias, double bound);  // the bias too

  Tensor operator()(const Tensor& x) const;
  TESSERA_MEMBERS(weight, bias)

 private:
  Linear(const Tensor& initial_weight, bool with_bias);
};

// Rows of a table by index. weight (rows, width), normal with the given deviation.
struct Embedding : Module {
  Tensor weight;

  Embedding(int64_t rows, int64_t width, double stddev = 0.02);
  Tensor operator()(const Tensor& ids) const;  // i64 (…) → (…, width)
  TESSERA_MEMBERS(weight)
};

}  // namespace tessera
