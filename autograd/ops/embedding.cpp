#include "tessera/autograd/ops/embedding.h"

#include "tessera/autograd/ops/arguments.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"

namespace tessera {
namespace {

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
  return reshape(index_select(table, 0, flatten(rows)), shape);
}

}  // namespace tessera
