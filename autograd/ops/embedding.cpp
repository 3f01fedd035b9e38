#include "tessera/autograd/ops/embedding.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/embedding_cuda.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/index.h"

namespace tessera {
namespace {

// Table (V, d) and ids (N) → (N, d).
struct Embedding {
  static constexpr std::string_view name = "embedding";
  Shape from;

  Tensor forward(Forward& f, const Tensor& table, const Tensor& ids) const {
    f.save(ids);
    if constexpr (kCuda) {
      if (table.device().is_cuda()) return embedding_cuda(kernels::contiguous(table), ids);
    }
    return kernels::take(table, 0, ids);
  }

  void backward(Backward& b) const {
    const Tensor& g = b.grad();
    const Tensor ids = b.saved(0);
    if (b.recording()) {
      b.add(0, index_add(zeros(from, {g.dtype(), g.device()}), 0, ids, g));
      return;
    }
    const Tensor sum = b.zeroed(0, from, g.dtype());
    if constexpr (kCuda) {
      if (g.device().is_cuda()) {
        embedding_backward_cuda(sum, ids, kernels::contiguous(g));
        return;
      }
    }
    kernels::add_at(sum, 0, ids, g);
  }
};

OpSample sample(const char* label, const Tensor& table, const Tensor& ids) {
  return {label,
          {table, ids},
          [](const TensorList& x) { return TensorList{embedding(x[0], x[1])}; },
          {}};
}

const RegisterOp row{{
    .name = "embedding",
    .formula = "y[…, :] = table[ids[…], :]",
    .source = "",
    .samples =
        [] {
          const Tensor table = samples::normal({5, 3});
          return std::vector<OpSample>{
              sample("a list with repetitions", table, samples::integers({9}, 0, 5)),
              sample("(2, 2)", table, samples::integers({2, 2}, 0, 5)),
              sample("one id", table, samples::integers({}, 2, 3)),
              sample("no ids", table, samples::integers({2, 0}, 0, 5)),
              sample("strided", samples::strided(table), samples::integers({4}, 0, 5)),
              sample("one row, one column", samples::normal({1, 1}), samples::integers({3}, 0, 1))};
        },
    .wrong_calls = {[] {
                      embedding(samples::normal({5, 3}), samples::integers({2}, 5, 6));
                    },
                    [] {
                      embedding(samples::normal({5, 3}), samples::integers({2}, -1, 0));
                    },
                    [] { embedding(samples::normal({5}), samples::integers({2}, 0, 5)); },
                    [] {
                      embedding(samples::normal({5, 3}), samples::normal({2}));
                    }},
}};

}  // namespace

Tensor embedding(const Tensor& table, const Tensor& ids) {
  check(table.rank() == 2, "embedding: the table must be a matrix (V, d), got {}", table.shape());
  const Tensor rows = detail::checked_ids("embedding", "id", ids, table.size(0));
  Shape shape = ids.shape();
  shape.push_back(table.size(1));
  return reshape(apply(Embedding{table.shape()}, table, flatten(rows)), shape);
}

}  // namespace tessera
