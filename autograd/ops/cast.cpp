#include "tessera/autograd/ops/cast.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/kernels/copy.h"

namespace tessera {
namespace {

struct Cast {
  static constexpr std::string_view name = "cast";
  DType from;
  DType to;

  Tensor forward(Forward&, const Tensor& x) const { return kernels::cast(x, to); }
  void backward(Backward& b) const { b.add(0, cast(b.grad(), from)); }
};

struct ToDevice {
  static constexpr std::string_view name = "to";
  Device from;
  Device to;

  Tensor forward(Forward&, const Tensor& x) const { return kernels::to_device(x, to); }
  void backward(Backward& b) const { b.add(0, b.grad().to(from)); }
};

const RegisterOp row{{
    .name = "cast",
    .formula = "y = x, stored as another dtype",
    .source = "",
    .samples = [] { return samples::unary([](const Tensor& x) { return cast(x, DType::f64); }); },
    .wrong_calls = {},
}};

}  // namespace

Tensor cast(const Tensor& x, DType dtype) {
  if (x.dtype() == dtype) return x;
  return apply(Cast{x.dtype(), dtype}, x);
}

Tensor Tensor::to(DType dtype) const {
  return cast(*this, dtype);
}

Tensor Tensor::to(Device device) const {
  if (device == this->device()) return *this;
  return apply(ToDevice{this->device(), device}, *this);
}

}  // namespace tessera
