// Normalisation layers.
#pragma once

#include "tessera/autograd/ops/norm.h"
#include "tessera/nn/module.h"

namespace tessera {

// (x − mean) / sqrt(var + eps) · weight + bias over the last dimension (Ba et al. 2016).
struct LayerNorm : Module {
  Tensor weight, bias;
  double eps;

  explicit LayerNorm(int64_t width, double eps = 1e-5, bool with_bias = true);
  Tensor operator()(const Tensor& x) const;
  TESSERA_MEMBERS(weight, bias)
};

// x / sqrt(mean(x²) + eps) · weight over the last dimension (Zhang & Sennrich 2019).
struct RmsNorm : Module {
  Tensor weight;
  double eps;

  explicit RmsNorm(int64_t width, double eps = 1e-5);
  Tensor operator()(const Tensor& x) const;
  TESSERA_MEMBERS(weight)
};

// A residual stream whose latest branch is not added yet, so that the norm which reads it next can
// do both in one pass. An absent branch is zero.
struct Residual {
  Tensor x;
  Tensor branch = {};
  Tensor sum() const;
};

// The norm that a config names: "layer" or "rms".
struct Norm : Module {
  std::optional<LayerNorm> layer;
  std::optional<RmsNorm> rms;

  Norm(const std::string& kind, int64_t width, double eps, bool with_bias = true);
  Tensor operator()(const Tensor& x) const { return layer ? (*layer)(x) : (*rms)(x); }
  AddNormResult operator()(const Residual& r) const;  // the residual's sum and its norm
  void members(Members& m) override {  // parameters are named as if the norm stood here itself
    if (layer) layer->members(m);
    if (rms) rms->members(m);
  }
};

// Over batch and space per channel of (B, C, …) (Ioffe & Szegedy 2015). The running statistics are
// buffers: moved in training mode only, and once per step even when a segment is recomputed.
struct BatchNorm : Module {
  Tensor weight, bias;
  Tensor running_mean, running_var;
  double eps;
  double momentum;

  explicit BatchNorm(int64_t channels, double eps = 1e-5, double momentum = 0.1);
  Tensor operator()(const Tensor& x);
  void members(Members& m) override;
};

// Over groups of channels and space of (B, C, …) (Wu & He 2018).
struct GroupNorm : Module {
  Tensor weight, bias;
  int64_t groups;
  double eps;

  GroupNorm(int64_t groups, int64_t channels, double eps = 1e-5);
  Tensor operator()(const Tensor& x) const;
  TESSERA_MEMBERS(weight, bias)
};

}  // namespace tessera
