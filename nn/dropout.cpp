#include "tessera/nn/dropout.h"

#include "tessera/autograd/ops/dropout.h"

namespace tessera {

Dropout::Dropout(double probability) : p(probability) {
  check(p >= 0 && p < 1, "dropout: probability {} is not in [0, 1)", p);
}

Tensor Dropout::operator()(const Tensor& x) const {
  return dropout(x, p, training());
}

DropPath::DropPath(double probability) : rate(probability) {
  check(rate >= 0 && rate < 1, "drop_path: rate {} is not in [0, 1)", rate);
}

Tensor DropPath::operator()(const Tensor& x) const {
  return drop_path(x, rate, training());
}

}  // namespace tessera
