// Cross-entropy of logits against classes or distributions, and the language-model head with its
// loss as one op. PyTorch's conventions, except that classes are the last dimension.
#pragma once

#include "tessera/core/tensor.h"

namespace tessera {

enum class Reduction { mean, sum, none };

struct CrossEntropyOptions {
  int64_t ignore_index = -1;   // targets with this value cost nothing and do not count in the mean
  double label_smoothing = 0;  // ε: the target distribution is (1 − ε) 1[target] + ε / C
  Reduction reduction = Reduction::mean;
};

// −log softmax(logits)[target] for logits (…, C) and integer targets (…). The mean is over targets
// that are not ignored, 0 with zero gradient when all are. Throws on any other target outside
// [0, C), naming it and its position; on CUDA the kernel prints it and stops the program. Fused:
// one read of the logits forward, one backward. Differentiable twice.
Tensor cross_entropy(const Tensor& logits, const Tensor& targets,
                     const CrossEntropyOptions& options = {});

// −Σ q log softmax(logits) for logits and q (…, C); the mean is over the rows. Terms with q = 0
// count nothing even where a logit is −∞. Differentiable twice in both.
Tensor soft_cross_entropy(const Tensor& logits, const Tensor& q,
                          Reduction reduction = Reduction::mean);

// cross_entropy(hidden weightᵀ, targets) for hidden (…, d), weight (V, d) and targets (…), by
// blocks of rows: the logits (…, V) never exist whole. When recording, the gradients are computed
// in the forward pass. The weight's has its dtype and is added up block by block: for a half, k
// blocks round k times, an error about √(k/3) that of the one rounding a half gradient has anyway,
// at half the memory and traffic of f32. Mean or sum only. Differentiable twice (then the logits do
// exist).
Tensor linear_cross_entropy(const Tensor& hidden, const Tensor& weight, const Tensor& targets,
                            const CrossEntropyOptions& options = {});

namespace detail {

// Losses of single elements or rows as the reduction wants them; the mean is over `count`, 0 over
// none. Differentiable.
Tensor reduced(const Tensor& losses, Reduction reduction, int64_t count);
void check_cross_entropy(std::string_view op, const CrossEntropyOptions& options);
int64_t count_valid(const Tensor& targets, int64_t ignored);

}  // namespace detail
}  // namespace tessera
