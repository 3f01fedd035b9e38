// Rotary positions: pairs of channels turned by angles that grow with the position.
#pragma once

#include <string>
#include <vector>

#include "tessera/core/tensor.h"

namespace tessera {

struct RotaryOptions {
  double base = 10000;
  bool interleaved = false;      // pairs (2i, 2i + 1) instead of (i, i + D/2)
  int64_t rotary_dim = 0;        // only the first so many channels turn; 0: all
  std::string scaling = "none";  // "linear": positions / factor; "llama3", "yarn": by wavelength
  double factor = 1;             // how much longer the context became
  double low = 1;                // wavelengths above original_context / low are divided
  double high = 4;               // wavelengths below original_context / high are kept
  int64_t original_context = 8192;
  double amplitude = 0;  // yarn: what is turned is multiplied by it; 0: 0.1 ln(factor) + 1
};

// (x_i, x_{i+D/2}) turned by the angle position · θ_i, θ_i = base^(−2i/D), for x (…, T, D) and
// integer positions (T) or broadcast to (…, T) (Su et al. 2021, "RoFormer"). Angles are computed in
// f64. x may be strided; the result is dense. Between low and high "llama3" blends by wavelength,
// "yarn" by the place of the pair (Peng et al. 2023). Throws on an odd D and on unknown scalings.
// Differentiable any number of times.
Tensor rotary(const Tensor& x, const Tensor& positions, const RotaryOptions& options = {});

// cos and sin of position · frequency for F frequencies: positions' shape with (2, F) appended,
// computed in f64. Integer positions; no gradient.
Tensor turns(const Tensor& positions, const std::vector<double>& frequencies, DType dtype);

}  // namespace tessera
