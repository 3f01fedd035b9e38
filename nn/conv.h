// Convolution layers.
#pragma once

#include "tessera/autograd/ops/conv.h"
#include "tessera/nn/module.h"

namespace tessera {

// A convolution in 1, 2 or 3 dimensions, by the rank of the kernel: weight (O, C/groups, …k), bias
// (O) or absent; x (B, C, …) → (B, O, …). Uniform ±1/sqrt(fan_in) to begin with.
struct Conv : Module {
  Tensor weight, bias;
  ConvOptions options;

  Conv(int64_t in, int64_t out, const Shape& kernel, const ConvOptions& options = {},
       bool with_bias = true);
  Tensor operator()(const Tensor& x) const;
  TESSERA_MEMBERS(weight, bias)
};

// Its transpose: weight (C, O/groups, …k).
struct ConvTranspose : Module {
  Tensor weight, bias;
  ConvTransposeOptions options;

  ConvTranspose(int64_t in, int64_t out, const Shape& kernel,
                const ConvTransposeOptions& options = {}, bool with_bias = true);
  Tensor operator()(const Tensor& x) const;
  TESSERA_MEMBERS(weight, bias)
};

}  // namespace tessera
