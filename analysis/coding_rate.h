// The measures of rate reduction (Yu et al. 2023, CRATE): how many bits tokens take up in a model's
// subspaces, and what lowers them.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

// ½ logdet(I + α XᵀX) of rows X (n, p), by the Cholesky factor of the smaller Gram matrix: (n, n)
// and (p, p) give the same number. For X (…, n, p) one number each, (…). f64; no gradient.
Tensor coding_rate(const Tensor& x, double alpha);

// R^c of tokens in subspaces as CRATE's authors measure it: every token of W (B, H, n, p) is scaled
// to length 1, then Σ_h ½ logdet(I + p/(n ε) W_hᵀW_h): (B).
Tensor subspace_coding_rate(const Tensor& w, double epsilon = 0.01);

// The exact gradient of R^c(Z | U) = ½ Σ_h logdet(I + a (Z U_h)ᵀ(Z U_h)) with respect to the tokens
// Z (n, width), U (H p, width) holding the rows of all U_hᵀ:
//   ∇R^c = a Σ_h Z U_h (I + a (Z U_h)ᵀ(Z U_h))⁻¹ U_hᵀ
// of which MSSA is one approximate step. f64; no gradient.
Tensor coding_rate_gradient(const Tensor& z, const Tensor& u, int64_t heads, double a);

// Share of entries that are not exactly 0.
double nonzero_share(const Tensor& x);

// |cos| of every two columns (rows = false) or rows of a matrix: (m, m).
Tensor coherence(const Tensor& matrix, bool rows = false);

}  // namespace tessera
