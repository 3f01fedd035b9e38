#include "tessera/nn/conv.h"

#include "tessera/nn/init.h"

namespace tessera {
namespace {

Shape weight_shape(int64_t first, int64_t second, int64_t groups, const Shape& kernel) {
  check(kernel.rank() >= 1 && kernel.rank() <= 3, "conv: kernel {} must have 1 to 3 sizes", kernel);
  check(groups > 0 && first % groups == 0 && second % groups == 0,
        "conv: {} and {} channels do not divide into {} groups", first, second, groups);
  Shape shape = {first, second / groups};
  for (int64_t size : kernel) shape.push_back(size);
  return shape;
}

}  // namespace

Conv::Conv(int64_t in, int64_t out, const Shape& kernel, const ConvOptions& o, bool with_bias)
    : options(o) {
  const Shape shape = weight_shape(out, in, o.groups, kernel);
  const int64_t fan_in = shape.numel() / out;
  weight = parameter(init::fan_in_uniform(shape, fan_in));
  if (with_bias) bias = parameter(init::fan_in_uniform({out}, fan_in));
}

Tensor Conv::operator()(const Tensor& x) const {
  if (weight.rank() == 3) return conv1d(x, weight, bias, options);
  if (weight.rank() == 4) return conv2d(x, weight, bias, options);
  return conv3d(x, weight, bias, options);
}

ConvTranspose::ConvTranspose(int64_t in, int64_t out, const Shape& kernel,
                             const ConvTransposeOptions& o, bool with_bias)
    : options(o) {
  const Shape shape = weight_shape(in, out, o.groups, kernel);
  const int64_t fan_in = shape.numel() / in;
  weight = parameter(init::fan_in_uniform(shape, fan_in));
  if (with_bias) bias = parameter(init::fan_in_uniform({out}, fan_in));
}

Tensor ConvTranspose::operator()(const Tensor& x) const {
  if (weight.rank() == 3) return conv_transpose1d(x, weight, bias, options);
  if (weight.rank() == 4) return conv_transpose2d(x, weight, bias, options);
  return conv_transpose3d(x, weight, bias, options);
}

}  // namespace tessera
