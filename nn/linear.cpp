#include "tessera/nn/linear.h"

#include "tessera/autograd/ops/embedding.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/nn/init.h"

namespace tessera {

Linear::Linear(int64_t in, int64_t out, bool with_bias)
    : weight(parameter(init::fan_in_uniform({out, in}, in))) {
  if (with_bias) bias = parameter(init::fan_in_uniform({out}, in));
}

Linear::Linear(const Tensor& initial_weight, bool with_bias) : weight(parameter(initial_weight)) {
  if (with_bias) bias = parameter(init::constant({weight.size(0)}, 0));
}

Linear Linear::normal(int64_t in, int64_t out, bool with_bias, double stddev) {
  return Linear(init::normal({out, in}, stddev), with_bias);
}

Linear Linear::truncated_normal(int64_t in, int64_t out, bool with_bias, double stddev) {
  return Linear(init::truncated_normal({out, in}, stddev), with_bias);
}

Linear Linear::glorot(int64_t in, int64_t out) {
  return Linear(init::xavier_uniform({out, in}), true);
}

Linear Linear::uniform(int64_t in, int64_t out, bool with_bias, double bound) {
  Linear layer(init::uniform({out, in}, bound), false);
  if (with_bias) layer.bias = parameter(init::uniform({out}, bound));
  return layer;
}

Tensor Linear::operator()(const Tensor& x) const {
  return linear(x, weight, bias);
}

Embedding::Embedding(int64_t rows, int64_t width, double stddev)
    : weight(parameter(init::normal({rows, width}, stddev))) {}

Tensor Embedding::operator()(const Tensor& ids) const {
  return embedding(weight, ids);
}

}  // namespace tessera
