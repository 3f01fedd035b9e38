// Losses element by element; those over classes are in cross_entropy.h. PyTorch's conventions: the
// mean is over all elements (0 over none), inputs have one shape, f32 or f64. All are twice
// differentiable in both inputs.
#pragma once

#include "tessera/autograd/ops/cross_entropy.h"

namespace tessera {

// −t log σ(x) − (1 − t) log(1 − σ(x)) = softplus(x) − t x, finite for any x; `weight` broadcasts to
// the losses.
Tensor binary_cross_entropy_with_logits(const Tensor& logits, const Tensor& targets,
                                        const Tensor& weight = {},
                                        Reduction reduction = Reduction::mean);

Tensor mse_loss(const Tensor& x, const Tensor& y, Reduction reduction = Reduction::mean);  // (x−y)²
Tensor l1_loss(const Tensor& x, const Tensor& y, Reduction reduction = Reduction::mean);  // |x−y|

// d²/(2 beta) for d = |x − y| < beta, else d − beta/2 (Girshick 2015); beta = 0 is l1_loss.
Tensor smooth_l1_loss(const Tensor& x, const Tensor& y, double beta = 1,
                      Reduction reduction = Reduction::mean);
// d²/2 for d = |x − y| ≤ delta, else delta (d − delta/2) (Huber 1964); delta > 0.
Tensor huber_loss(const Tensor& x, const Tensor& y, double delta = 1,
                  Reduction reduction = Reduction::mean);

// q (log q − log_p), 0 where q = 0. The mean is over elements: for the divergence of rows take the
// sum and divide by their number.
Tensor kl_div(const Tensor& log_p, const Tensor& q, Reduction reduction = Reduction::mean);

}  // namespace tessera
