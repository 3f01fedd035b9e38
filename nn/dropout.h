// Regularisation that is the identity in evaluation mode.
#pragma once

#include "tessera/nn/module.h"

namespace tessera {

// Zeroes entries with probability p and divides the others by 1 − p (Srivastava et al. 2014).
struct Dropout : Module {
  double p;
  explicit Dropout(double probability);
  Tensor operator()(const Tensor& x) const;
  void members(Members&) override {}
};

// Drops a residual branch per sample with probability `rate` and divides the kept ones by 1 − rate
// (Huang et al. 2016, "Deep Networks with Stochastic Depth").
struct DropPath : Module {
  double rate;
  explicit DropPath(double probability);
  Tensor operator()(const Tensor& x) const;
  void members(Members&) override {}
};

}  // namespace tessera
