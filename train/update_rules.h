// How optimizers that treat every element alike update one: written once for the CPU and CUDA.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "tessera/core/inline.h"

namespace tessera {

// What changes from step to step, computed on the host. On CUDA it is copied to the device before
// each step, so that a recorded step reads fresh values.
struct StepScalars {
  float rate = 0;
  float shrink = 1;      // by weight decay
  float correction = 1;  // of the bias of a second moment
  float beta = 0;        // a decay that depends on the step
};

// The state of a step in a device's memory.
struct StepState {
  StepScalars scalars;  // from the host, as the next two
  float share = 1;      // of a micro-batch in the step: 1 / accumulate
  float max_norm = std::numeric_limits<float>::infinity();  // of the gradient
  float loss = 0;                                           // the mean over the micro-batches
  float norm = 0;                                           // of the mean gradient
  float scale = 1;                                          // of gradients: share times clipping
  int32_t finite = 1;                                       // else nothing is updated
};

TESSERA_INLINE float square_root(float x) {
#ifdef __CUDA_ARCH__
  return sqrtf(x);
#else
  return __builtin_sqrtf(x);
#endif
}

// Each rule: element w with gradient g and its entries a, b of the slots.

// m ← β₁ m + (1 − β₁) g;  v ← β₂ v + (1 − β₂) g²
// w ← w − lr (m̂ / (sqrt(v̂) + ε) + λ w),  m̂ = m / (1 − β₁ᵗ), v̂ = v / (1 − β₂ᵗ)
struct AdamWRule {
  static constexpr int kSlots = 2;
  float beta1 = 0, beta2 = 0, eps = 0;

  TESSERA_INLINE void operator()(float& w, float g, float& m, float& v, const StepScalars& s,
                                 bool decay) const {
    m = beta1 * m + (1 - beta1) * g;
    v = beta2 * v + (1 - beta2) * g * g;
    w = (decay ? s.shrink : 1.0F) * w - s.rate * m / (square_root(v) * s.correction + eps);
  }
};

// b ← μ b + g + λ w;  w ← w − lr b   (Nesterov: w ← w − lr (g + λ w + μ b))
struct SgdRule {
  static constexpr int kSlots = 1;
  float momentum = 0, direct = 0, ahead = 1, penalty = 0;

  TESSERA_INLINE void operator()(float& w, float gradient, float& b, float&, const StepScalars& s,
                                 bool decay) const {
    const float g = gradient + (decay ? penalty : 0.0F) * w;
    b = momentum * b + g;
    w -= s.rate * (direct * g + ahead * b);
  }
};

// w ← w − lr (sign(β₁ m + (1 − β₁) g) + λ w);  m ← β₂ m + (1 − β₂) g
struct LionRule {
  static constexpr int kSlots = 1;
  float beta1 = 0, beta2 = 0;

  TESSERA_INLINE void operator()(float& w, float g, float& m, float&, const StepScalars& s,
                                 bool decay) const {
    const float direction = beta1 * m + (1 - beta1) * g;
    const float sign = direction > 0 ? 1.0F : (direction < 0 ? -1.0F : 0.0F);
    w = (decay ? s.shrink : 1.0F) * w - s.rate * sign;
    m = beta2 * m + (1 - beta2) * g;
  }
};

}  // namespace tessera
