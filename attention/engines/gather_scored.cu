// Attention over lists with any score functor, in f32 or f64: products, scores and weights of all
// pairs lie in memory, which is as large as the lists are for every head. Functors run on them
// between kernels that know nothing of functors.
#include "tessera/attention/engines/gather_parts.h"
#include "tessera/attention/engines/gather_scores.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/math.h"

namespace tessera::lists {
namespace {

// Rows on the side of the slots: of queries, or of slots themselves.
template <class T>
struct SlotRows {
  dense::Heads<const T> rows;
  bool of_queries;
};

template <class T>
struct Slot {
  int b, h, slot, query;
  const int32_t* list;
  __device__ Slot(const Problem<T>& p, int64_t row)
      : b(static_cast<int>(row / p.slots / p.heads)),
        h(static_cast<int>(row / p.slots % p.heads)),
        slot(static_cast<int>(row % p.slots)),
        query(p.query_of(b, h, slot)),
        list(p.keys.head(b, h) + static_cast<int64_t>(slot / p.slot_width) * p.keys.width) {}
};

// y[s, j] = factor ⟨x_s, rows of list j⟩; 0 where somebody is missing.
template <class T, int kEach>
__global__ void __launch_bounds__(kPairThreads)
    products_kernel(const __grid_constant__ Problem<T> p, SlotRows<T> x,
                    dense::Heads<const T> others, int width, T factor, T* y) {
  const int64_t row = cuda::thread_index() / 32;
  if (row >= static_cast<int64_t>(p.batch) * p.heads * p.slots) return;
  const int lane = static_cast<int>(threadIdx.x % 32), team = lane / kTeam;
  const Slot<T> at(p, row);
  const T* keys = others.at(at.b, at.h / p.group);
  T own[kEach];
  Part<T, kEach> part;
  part.load(x.rows.at(at.b, at.h) + (x.of_queries ? at.query : at.slot) * x.rows.row, width,
            at.query >= 0);
  set(own, part);
  for (int first = 0; first < p.keys.width; first += kTeams) {
    const int j = first + team;
    const int key = j < p.keys.width ? Problem<T>::checked(at.list[j], p.rule.keys) : -1;
    part.load(keys + key * others.row, width, key >= 0);
    const T dot = product(own, part);
    if (j < p.keys.width && lane % kTeam == 0) y[row * p.keys.width + j] = dot * factor;
  }
}

// y_s = factor Σ_j w[s, j] (row of list j).
template <class T, int kEach>
__global__ void __launch_bounds__(kPairThreads)
    sums_kernel(const __grid_constant__ Problem<T> p, const T* w, dense::Heads<const T> others,
                int width, T factor, dense::Heads<T> y) {
  const int64_t row = cuda::thread_index() / 32;
  if (row >= static_cast<int64_t>(p.batch) * p.heads * p.slots) return;
  const int lane = static_cast<int>(threadIdx.x % 32), team = lane / kTeam;
  const Slot<T> at(p, row);
  const T* keys = others.at(at.b, at.h / p.group);
  T sum[kEach] = {};
  for (int j = team; j < p.keys.width; j += kTeams) {
    const T weight = w[row * p.keys.width + j];
    if (weight == 0) continue;
    Part<T, kEach> part;
    part.load(keys + at.list[j] * others.row, width, true);
    add(sum, weight, part);
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) sum[e] = over_teams(sum[e], cuda::Sum());
  if (lane < kTeam) store_part(y.at(at.b, at.h) + at.slot * y.row, width, sum, factor);
}

// y_j = factor Σ w[s, place] x_s over the places at which key j is listed and the slots there.
template <class T, int kEach>
__global__ void __launch_bounds__(kPairThreads)
    key_sums_kernel(const __grid_constant__ Problem<T> p, Inverse inverse, const T* w,
                    SlotRows<T> x, int width, T factor, dense::Heads<T> y) {
  const int key_heads = p.heads / p.group, keys = p.rule.keys;
  const int64_t row = cuda::thread_index() / 32;
  if (row >= static_cast<int64_t>(p.batch) * key_heads * keys) return;
  const int lane = static_cast<int>(threadIdx.x % 32), team = lane / kTeam;
  const int j = static_cast<int>(row % keys);
  const int kh = static_cast<int>(row / keys % key_heads);
  const int b = static_cast<int>(row / keys / key_heads);
  T sum[kEach] = {};
  for (int h = kh * p.group; h < (kh + 1) * p.group; ++h) {
    const IndexRange places = inverse.of(p.keys.head_of(b, h), j);
    const int64_t pairs = static_cast<int64_t>(places.end - places.begin) * p.slot_width;
    const int64_t first = (static_cast<int64_t>(b) * p.heads + h) * p.slots;
    for (int64_t pair = team; pair < pairs; pair += kTeams) {
      const auto place = static_cast<int>(inverse.places[places.begin + pair / p.slot_width]);
      const int slot = place / p.keys.width * p.slot_width + static_cast<int>(pair % p.slot_width);
      const T weight = w[(first + slot) * p.keys.width + place % p.keys.width];
      if (weight == 0) continue;
      Part<T, kEach> part;
      const int64_t of = x.of_queries ? p.query_of(b, h, slot) : slot;
      part.load(x.rows.at(b, h) + of * x.rows.row, width, true);
      add(sum, weight, part);
    }
  }
#pragma unroll
  for (int e = 0; e < kEach; ++e) sum[e] = over_teams(sum[e], cuda::Sum());
  if (lane < kTeam) store_part(y.at(b, kh) + j * y.row, width, sum, factor);
}

// One warp per row: scores → weights, and the logsumexp.
template <class T>
__global__ void weights_kernel(T* scores, T* lse, int64_t rows, int width) {
  const int64_t row = cuda::thread_index() / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= rows) return;
  T* s = scores + row * width;
  T top = -INFINITY, total = 0;
  for (int j = lane; j < width; j += 32) top = max(top, s[j]);
  top = cuda::warp_reduce(top, cuda::Max());
  const T shift = top == -INFINITY ? T{0} : top;
  for (int j = lane; j < width; j += 32) {
    s[j] = math::exp(s[j] - shift);
    total += s[j];
  }
  total = cuda::warp_reduce(total, cuda::Sum());
  for (int j = lane; j < width && total > 0; j += 32) s[j] /= total;
  if (lane == 0) lse[row] = total == 0 ? static_cast<T>(-INFINITY) : top + math::log(total);
}

// slopes ← weights (slopes − Σ weights slopes + dL): gradients with respect to the scores.
template <class T>
__global__ void slopes_kernel(T* slopes, const T* weights, const T* grad_lse, int64_t rows,
                              int width) {
  const int64_t row = cuda::thread_index() / 32;
  const int lane = static_cast<int>(threadIdx.x % 32);
  if (row >= rows) return;
  T* g = slopes + row * width;
  const T* w = weights + row * width;
  T delta = 0;
  for (int j = lane; j < width; j += 32) delta += w[j] * g[j];
  delta = cuda::warp_reduce(delta, cuda::Sum());
  if (grad_lse != nullptr) delta -= grad_lse[row];
  for (int j = lane; j < width; j += 32) g[j] = w[j] * (g[j] - delta);
}

// One block per entry of a table.
template <class T>
__global__ void table_kernel(T* table, Inverse inverse, const T* gradients) {
  __shared__ T scratch[cuda::kWarp];
  const IndexRange own = inverse.of(0, static_cast<int>(blockIdx.x));
  T sum = 0;
  for (int i = own.begin + static_cast<int>(threadIdx.x); i < own.end;
       i += static_cast<int>(blockDim.x)) {
    sum += gradients[inverse.places[i]];
  }
  sum = cuda::block_reduce(sum, cuda::Sum(), T{0}, scratch);
  if (threadIdx.x == 0) table[blockIdx.x] = sum;
}

// The steps, all on one set of inputs in pieces.
template <class T, int kEach>
struct Scored {
  const Tensor &q, &k, &v;
  const Tensor& key_lists;
  const AttentionOptions& options;
  TensorList& keep;
  Problem<T> p;
  PairScores pairs;
  int64_t rows;

  Scored(const Tensor& query, const Tensor& key, const Tensor& value, const Tensor& query_lists,
         const Tensor& listed, const AttentionOptions& o, TensorList& k_)
      : q(query),
        k(key),
        v(value),
        key_lists(listed),
        options(o),
        keep(k_),
        p(problem_of<T>(query, key, value, query_lists, listed, o, k_)),
        rows(int64_t{p.batch} * p.heads * p.slots) {
    pairs.rule = p.rule;
    pairs.queries = p.queries;
    pairs.keys = p.keys;
    pairs.batch = p.batch;
    pairs.heads = p.heads;
    pairs.slots = p.slots;
    pairs.slot_width = p.slot_width;
    pairs.f64 = sizeof(T) == 8;
    pairs.device = q.device();
    for (size_t i = 0; i < o.score.tables().size(); ++i) {
      keep.push_back(kernels::contiguous(o.score.tables()[i]));
      pairs.tables[i] = keep.back().raw_data();
    }
  }

  Tensor of_pairs(DType dtype) const {
    return empty({p.batch, p.heads, p.slots, p.keys.width}, {dtype, q.device()});
  }
  Tensor products(const Tensor& x, bool of_queries, const Tensor& others, double factor) const {
    const Tensor y = of_pairs(q.dtype());
    cuda::launch("gather_attention", q.device(), products_kernel<T, kEach>, blocks_of(rows),
                 kPairThreads, 0, p, SlotRows<T>{dense::Heads<const T>(x), of_queries},
                 dense::Heads<const T>(others), static_cast<int>(others.size(3)), factor,
                 cuda::data<T>(y));
    return y;
  }
  void sums(const Tensor& w, const Tensor& others, double factor, const Tensor& y) const {
    cuda::launch("gather_attention", q.device(), sums_kernel<T, kEach>, blocks_of(rows),
                 kPairThreads, 0, p, cuda::data<T>(w), dense::Heads<const T>(others),
                 static_cast<int>(others.size(3)), factor, dense::Heads<T>(y));
  }
  void key_sums(const Inverse& inverse, const Tensor& w, const Tensor& x, bool of_queries,
                double factor, const Tensor& y) const {
    cuda::launch("gather_attention", q.device(), key_sums_kernel<T, kEach>,
                 blocks_of(k.size(0) * k.size(1) * k.size(2)), kPairThreads, 0, p, inverse,
                 cuda::data<T>(w), SlotRows<T>{dense::Heads<const T>(x), of_queries},
                 static_cast<int>(x.size(3)), factor, dense::Heads<T>(y));
  }
  void run_functor(bool backward) const {
    const ScoreKernels& s = options.score.kernels();
    s.launch_pairs(s.functor, pairs, backward);
  }
  // Products before the functor, weights and logsumexp after it.
  void weigh(const Tensor& weights, const Tensor& lse) {
    keep.push_back(products(q, true, k, options.scale));
    pairs.products = keep.back().raw_data();
    pairs.scores = weights.raw_data();
    run_functor(false);
    cuda::launch("gather_attention", q.device(), weights_kernel<T>, blocks_of(rows), kPairThreads,
                 0, cuda::data<T>(weights), cuda::data<T>(lse), rows, p.keys.width);
  }
};

Tensor table_sum(const Tensor& table, const Tensor& index, const Tensor& gradients,
                 TensorList& keep) {
  const Tensor sum = empty(table.shape(), {gradients.dtype(), gradients.device()});
  const Inverse inverse =
      invert(views::reshape(index, {1, 1, 1, index.numel()}), table.numel(), keep);
  cuda::visit_floating("gather_attention", gradients.dtype(), [&]<class T>() {
    if constexpr (sizeof(T) >= 4) {
      cuda::launch("gather_attention", sum.device(), table_kernel<T>, dense::grid_of(table.numel()),
                   256, 0, cuda::data<T>(sum), inverse, cuda::data<T>(gradients));
    }
  });
  return sum;
}

template <class Fn>
void visit_wide(const Tensor& q, const Tensor& v, const Fn& fn) {
  visit_parts(q, v, [&]<class T, int kEach>() {
    if constexpr (sizeof(T) >= 4) fn.template operator()<T, kEach>();
  });
}

}  // namespace

void attend_scored(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& query_lists,
                   const Tensor& key_lists, const AttentionOptions& options,
                   const AttentionResult& to) {
  TensorList keep;
  visit_wide(q, v, [&]<class T, int kEach>() {
    Scored<T, kEach> s(q, k, v, query_lists, key_lists, options, keep);
    s.pairs.entries = s.p.entries;
    const Tensor weights = s.of_pairs(q.dtype());
    s.weigh(weights, to.logsumexp);
    s.sums(weights, v, 1, to.output);
  });
}

TensorList backward_scored(const Tensor& q, const Tensor& k, const Tensor& v,
                           const Tensor& query_lists, const Tensor& key_lists,
                           const AttentionOptions& options, const Tensor& grad_out,
                           const Tensor& grad_lse, const Gradients& to) {
  TensorList keep, tables;
  const Inverse inverse = invert(key_lists, k.size(2), keep);
  visit_wide(q, v, [&]<class T, int kEach>() {
    Scored<T, kEach> s(q, k, v, query_lists, key_lists, options, keep);
    const Tensor weights = s.of_pairs(q.dtype());
    const Tensor lse = empty({q.size(0), q.size(1), s.p.slots}, {q.dtype(), q.device()});
    s.weigh(weights, lse);
    const Tensor slopes = s.products(grad_out, false, v, 1);
    cuda::launch("gather_attention", q.device(), slopes_kernel<T>, blocks_of(s.rows), kPairThreads,
                 0, cuda::data<T>(slopes), cuda::data<T>(weights),
                 grad_lse.defined() ? cuda::data<T>(grad_lse) : nullptr, s.rows, s.p.keys.width);
    s.pairs.gradients = slopes.raw_data();
    const TensorList& of_score = options.score.tables();
    TensorList index, gradients;
    for (size_t i = 0; i < of_score.size(); ++i) {
      index.push_back(s.of_pairs(DType::i32));
      gradients.push_back(s.of_pairs(q.dtype()));
      s.pairs.table_index[i] = cuda::data<int32_t>(index[i]);
      s.pairs.table_gradients[i] = gradients[i].raw_data();
    }
    s.run_functor(true);
    s.sums(slopes, k, options.scale, to.query);
    s.key_sums(inverse, slopes, q, true, options.scale, to.key);
    s.key_sums(inverse, weights, grad_out, false, 1, to.value);
    for (size_t i = 0; i < of_score.size(); ++i) {
      tables.push_back(table_sum(of_score[i], index[i], gradients[i], keep));
    }
  });
  return tables;
}

}  // namespace tessera::lists
