#include "tessera/nn/norm.h"

#include "tessera/autograd/custom.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/tape.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

// running ← (1 − momentum) running + momentum · batch
void move_towards(const Tensor& running, const Tensor& batch, double momentum) {
  NoGrad off;
  kernels::copy(running, running * (1 - momentum) + batch.detach() * momentum);
  running.bump_version();
}

}  // namespace

LayerNorm::LayerNorm(int64_t width, double epsilon, bool with_bias)
    : weight(parameter(ones({width}))), eps(epsilon) {
  if (with_bias) bias = parameter(zeros({width}));
}

Tensor LayerNorm::operator()(const Tensor& x) const {
  return layer_norm(x, weight, bias, eps);
}

RmsNorm::RmsNorm(int64_t width, double epsilon) : weight(parameter(ones({width}))), eps(epsilon) {}

Tensor RmsNorm::operator()(const Tensor& x) const {
  return rms_norm(x, weight, eps);
}

Norm::Norm(const std::string& kind, int64_t width, double eps, bool with_bias) {
  check(kind == "layer" || kind == "rms", "norm: unknown kind \"{}\"; use \"layer\" or \"rms\"",
        kind);
  if (kind == "layer") {
    layer.emplace(width, eps, with_bias);
  } else {
    rms.emplace(width, eps);
  }
}

Tensor Residual::sum() const {
  return branch.defined() ? x + branch : x;
}

AddNormResult Norm::operator()(const Residual& r) const {
  if (!r.branch.defined()) return {r.x, (*this)(r.x)};
  return layer ? add_layer_norm(r.x, r.branch, layer->weight, layer->bias, layer->eps)
               : add_rms_norm(r.x, r.branch, rms->weight, rms->eps);
}

BatchNorm::BatchNorm(int64_t channels, double epsilon, double step)
    : weight(parameter(ones({channels}))),
      bias(parameter(zeros({channels}))),
      running_mean(zeros({channels})),
      running_var(ones({channels})),
      eps(epsilon),
      momentum(step) {}

Tensor BatchNorm::operator()(const Tensor& x) {
  if (!training()) {
    return batch_norm(x, running_mean.to(x.dtype()), running_var.to(x.dtype()), weight, bias, eps);
  }
  const BatchNormResult r = batch_norm(x, weight, bias, eps);
  if (!recomputing()) {
    const double count = static_cast<double>(x.numel()) / static_cast<double>(x.size(1));
    move_towards(running_mean, r.mean, momentum);
    move_towards(running_var, r.variance * (count / std::max(1.0, count - 1)), momentum);
  }
  return r.y;
}

void BatchNorm::members(Members& m) {
  m.list("weight, bias", weight, bias);
  m.buffer("running_mean", running_mean);
  m.buffer("running_var", running_var);
}

GroupNorm::GroupNorm(int64_t group_count, int64_t channels, double epsilon)
    : weight(parameter(ones({channels}))),
      bias(parameter(zeros({channels}))),
      groups(group_count),
      eps(epsilon) {
  check(groups > 0 && channels % groups == 0,
        "group_norm: {} channels do not divide into {} groups", channels, groups);
}

Tensor GroupNorm::operator()(const Tensor& x) const {
  return group_norm(x, groups, weight, bias, eps);
}

}  // namespace tessera
