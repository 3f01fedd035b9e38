#include "tessera/autograd/ops/pack_rows.h"

#include "tessera/autograd/op.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/comparison.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/matmul.h"
#include "tessera/autograd/ops/scan.h"
#include "tessera/autograd/ops/sort.h"
#include "tessera/autograd/ops/sum.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/autograd/registry.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/index.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

// y[b, i] = x[b, from[b, i]] where kept[b, i], else 0. `to` and `there` are those of the way back.
struct MoveRows {
  std::string_view name;

  Tensor forward(Forward& f, const Tensor& x, const Tensor& from, const Tensor& kept,
                 const Tensor& to, const Tensor& there) const {
    f.save(to, there, from, kept);
    const int64_t batch = x.size(0), n = x.size(1);
    if (x.numel() == 0) return kernels::clone(x);
    const Tensor first =
        views::unsqueeze(arange(0, static_cast<double>(batch), 1, {DType::i64, x.device()}), 1);
    const Tensor rows = views::reshape(from + first * static_cast<double>(n), {batch * n});
    const Tensor flat = views::reshape(x, {batch * n, x.numel() / (batch * n)});
    const Tensor hidden = views::reshape(logical_not(kept), {batch * n, 1});
    return views::reshape(masked_fill(kernels::take(flat, 0, rows), hidden, 0), x.shape());
  }
  void backward(Backward& b) const {
    b.add(0, apply(MoveRows{name}, b.grad(), b.saved(0), b.saved(1), b.saved(2), b.saved(3)));
  }
};

void check_rows(std::string_view op, const Tensor& x, const Packing& p) {
  check(x.rank() >= 2 && p.chosen.rank() == 2 && x.size(0) == p.chosen.size(0) &&
            x.size(1) == p.chosen.size(1),
        "{}: rows {} do not fit a packing of {}", op, x.shape(), p.chosen.shape());
}

// The same as a product with a matrix of zeros and ones.
Tensor by_matrix(const Tensor& x, const Packing& p, bool pack) {
  const Tensor ones = one_hot(p.place, x.size(1), x.dtype());  // (B, entry, place)
  const Tensor kept = ones * unsqueeze(p.chosen.to(x.dtype()), -1);
  const Tensor rows = flatten(unsqueeze(x, -1), 2);
  return reshape(matmul(pack ? transpose(kept, 1, 2) : kept, rows), x.shape());
}

std::vector<OpSample> row_samples(bool pack) {
  auto add = [pack](std::string label, const Tensor& x, const Tensor& chosen) {
    return OpSample{std::move(label),
                    {x, chosen},
                    [pack](const TensorList& in) {
                      const Packing p = packing_of(in[1]);
                      return TensorList{pack ? pack_rows(in[0], p) : unpack_rows(in[0], p)};
                    },
                    [pack](const TensorList& in) {
                      return TensorList{by_matrix(in[0], packing_of(in[1]), pack)};
                    }};
  };
  const Tensor some = samples::integers({3, 5}, 0, 2).to(DType::boolean);
  const Tensor x = samples::normal({3, 5, 2});
  return {add("some entries", x, some),
          add("all entries", x, ones({3, 5}).to(DType::boolean)),
          add("no entry", x, zeros({3, 5}).to(DType::boolean)),
          add("strided", samples::strided(x), some),
          add("one number per entry", samples::normal({3, 5}), some),
          add("more dimensions", samples::normal({1, 3, 2, 2}),
              samples::integers({1, 3}, 0, 2, 1).to(DType::boolean)),
          add("no rows", samples::normal({0, 3, 2}), zeros({0, 3}).to(DType::boolean)),
          add("rows of size 1", samples::normal({2, 1, 2}),
              samples::integers({2, 1}, 0, 2, 2).to(DType::boolean))};
}

OpInfo row(const char* name, const char* formula, bool pack) {
  const Tensor some = zeros({2, 3}).to(DType::boolean);
  auto call = [pack](const Tensor& x, const Tensor& chosen) {
    const Packing p = packing_of(chosen);
    return pack ? pack_rows(x, p) : unpack_rows(x, p);
  };
  return {.name = name,
          .formula = formula,
          .source = "Ren et al. 2023",
          .samples = [pack] { return row_samples(pack); },
          .wrong_calls = {[=] {
                            call(samples::normal({2, 4, 2}), some);
                          },
                          [=] { call(samples::normal({2}), some); }}};
}

const RegisterOp pack_row{row("pack_rows", "y[b, i] = x[b, entry i of those chosen in b]", true)};
const RegisterOp unpack_row{row("unpack_rows", "the adjoint of pack_rows", false)};

}  // namespace

Packing packing_of(const Tensor& chosen) {
  check(chosen.rank() == 2 && chosen.dtype() == DType::boolean,
        "pack_rows: wants bool (B, N) of chosen entries, got {} {}", chosen.dtype(),
        chosen.shape());
  const int64_t batch = chosen.size(0), n = chosen.size(1);
  const Options i64{DType::i64, chosen.device()};
  const Tensor at = arange(0, static_cast<double>(n), 1, i64);
  const Tensor before = cumsum(chosen, 1, {.exclusive = true});
  const Tensor count = sum(chosen.to(DType::i64), {1});
  const Tensor place = where(chosen, before, at - before + unsqueeze(count, 1));
  const Tensor places = expand(at, {batch, n});
  return {chosen, lt(places, unsqueeze(count, 1)), place,
          scatter(zeros({batch, n}, i64), 1, place, places), count};
}

Tensor pack_rows(const Tensor& x, const Packing& p) {
  check_rows("pack_rows", x, p);
  return apply(MoveRows{"pack_rows"}, x, p.entry, p.filled, p.place, p.chosen);
}

Tensor unpack_rows(const Tensor& x, const Packing& p) {
  check_rows("unpack_rows", x, p);
  return apply(MoveRows{"unpack_rows"}, x, p.place, p.chosen, p.entry, p.filled);
}

}  // namespace tessera
