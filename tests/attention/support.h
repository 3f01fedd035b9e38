// What the tests of several engines share.
#pragma once

#include "tessera/tests/support.h"

namespace tessera::test {

struct Inputs {
  Tensor q, k, v;
};

// Leaves in f64: q (b, h, n, d), k and v (b, hk, m, d).
inline Inputs random_inputs(int64_t b, int64_t h, int64_t hk, int64_t n, int64_t m, int64_t d) {
  return {randn({b, h, n, d}, DType::f64).set_requires_grad(),
          randn({b, hk, m, d}, DType::f64).set_requires_grad(),
          randn({b, hk, m, d}, DType::f64).set_requires_grad()};
}

}  // namespace tessera::test
