// Normalisation: values are centred and scaled by the statistics of the group they belong to, then
// by learned parameters. All variances are the biased ones (division by the count).
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// y = (x − μ) / √(σ² + ε) · weight + bias, with μ and σ² over the last dimensions of x: those that
// `weight` (or `bias`) has, the last one when both are absent (undefined). One pass per row forward
// and backward, statistics kept. f32 and f64, on CUDA all floating dtypes (the halves compute in
// f32 and take parameters in f32 too). Twice differentiable. Ba et al. 2016, "Layer Normalization".
Tensor layer_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {},
                  double eps = 1e-5);

// y = x / √(mean(x²) + ε) · weight over the last dimensions of x, as for layer_norm.
// Zhang and Sennrich 2019, "Root Mean Square Layer Normalization".
Tensor rms_norm(const Tensor& x, const Tensor& weight = {}, double eps = 1e-6);

// s = x + branch and its norm in one pass, forward and backward: the residual of a block together
// with the norm that follows. x and branch of one shape; the norm is layer_norm or rms_norm. Twice
// differentiable.
struct AddNormResult {
  Tensor sum;
  Tensor y;
};
AddNormResult add_layer_norm(const Tensor& x, const Tensor& branch, const Tensor& weight = {},
                             const Tensor& bias = {}, double eps = 1e-5);
AddNormResult add_rms_norm(const Tensor& x, const Tensor& branch, const Tensor& weight = {},
                           double eps = 1e-6);

struct BatchNormResult {
  Tensor y;
  Tensor mean;      // (C) of this batch, without history: for a module's running statistics
  Tensor variance;  // (C), biased; the unbiased one is count / (count − 1) times as large
};

// x (B, C, …): statistics per channel over all other dimensions; weight and bias (C), optional.
// Twice differentiable through y. Throws when a channel has no values.
// Ioffe and Szegedy 2015, "Batch Normalization".
BatchNormResult batch_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {},
                           double eps = 1e-5);

// The form of evaluation: mean and variance (C) are given; gradients reach them too.
Tensor batch_norm(const Tensor& x, const Tensor& mean, const Tensor& variance, const Tensor& weight,
                  const Tensor& bias, double eps);

// x (B, C, …): statistics per sample over `groups` groups of C / groups channels; weight and bias
// (C), optional. groups = C is instance norm, groups = 1 normalises a whole sample. Twice
// differentiable. Wu and He 2018, "Group Normalization".
Tensor group_norm(const Tensor& x, int64_t groups, const Tensor& weight = {},
                  const Tensor& bias = {}, double eps = 1e-5);

// Ulyanov et al. 2016, "Instance Normalization".
Tensor instance_norm(const Tensor& x, const Tensor& weight = {}, const Tensor& bias = {},
                     double eps = 1e-5);

}  // namespace tessera
