// Losses of rows of logits (rows, C) against classes on a device. Losses, logsumexps and scales are
// f64; targets are dense i64, and one that is neither a class nor ignored stops the program.
#pragma once

#include "tessera/autograd/ops/cross_entropy.h"

namespace tessera::detail {

// What the sum of the losses is multiplied by, shape (): 1, or for a mean 1 / (number of targets
// that are not ignored), 1 when there are none.
Tensor loss_scale_cuda(const Tensor& targets, const CrossEntropyOptions& options);

// The loss of every row, in one read of the logits, and its logsumexp where `lse` is defined.
void row_losses_cuda(const Tensor& losses, const Tensor& lse, const Tensor& logits,
                     const Tensor& targets, const CrossEntropyOptions& options);
// The same, and the logits become their gradients of scale · Σ losses.
void row_losses_to_gradients_cuda(const Tensor& losses, const Tensor& logits, const Tensor& targets,
                                  const CrossEntropyOptions& options, const Tensor& scale);

// scale · Σ losses, shape ().
Tensor scaled_sum_cuda(const Tensor& losses, const Tensor& scale, DType dtype);

// gx = g · scale · d loss / dx; g has one element, or one for each row.
void cross_entropy_backward_cuda(const Tensor& gx, const Tensor& logits, const Tensor& targets,
                                 const Tensor& lse, const Tensor& g, const Tensor& scale,
                                 const CrossEntropyOptions& options);

// x *= factor, a tensor of one element; reads nothing when that is 1.
void scale_cuda(const Tensor& x, const Tensor& factor);

}  // namespace tessera::detail
