// Windows and lists of blocks of 128 in halves on Hopper, forward and backward.
#include "tessera/attention/engines/hopper_backward.h"
#include "tessera/attention/engines/hopper_forward.h"
#include "tessera/attention/engines/tensor_map.h"

namespace tessera::dense {
namespace {

struct Windowed {
  Sizes sizes;
  SparseTiles tiles;
  __device__ Span operator()(int query) const {
    const IndexRange r = tiles.keys_of(sizes, query);
    return {r.begin, r.end};
  }
};

// The lists of query blocks, partial blocks first: these alone need a mask.
template <int kKeys>
struct ListSource {
  Windowed rule;

  struct Tiles {
    const Windowed& rule;
    const int32_t* list;
    int partial, count;

    __device__ Tiles(const ListSource& source, int b, int h, int query, int) : rule(source.rule) {
      const BlockRow row = rule.tiles.lists.row(b, h, query >> rule.tiles.own_block);
      list = row.index;
      count = rule.tiles.template tiles_of<kKeys>(row);
      partial = row.count == 0 ? 0 : count / row.count * row.partial;
    }
    __device__ int key(int j) const { return rule.tiles.template listed<kKeys>(list, j); }
    __device__ Span plain(int, int) const { return {partial, count}; }
    __device__ Span visible(int query, int) const { return rule(query); }
  };
};

// 128 queries of heads of 64 elements: two warpgroups.
struct NarrowShape {
  static constexpr int kWidth = 64, kGroups = 2, kKeys = 128;
  static constexpr int kLoading = 40, kComputing = 232;
  static constexpr bool kTurns = true;
};
struct WideShape {
  static constexpr int kWidth = 128, kGroups = 2, kKeys = 128;
  static constexpr int kLoading = 40, kComputing = 232;
  static constexpr bool kTurns = true;
};

template <class T, class C, class Source>
void forward(const Sizes& s, const Source& source, const Tensor& q, const Tensor& k,
             const Tensor& v, const Tensor& out, const Tensor& lse) {
  using L = HopperTile<C>;
  const auto map = [](const Tensor& x, int rows) { return cuda::tensor_map("attention", x, rows); };
  const int heads = s.batch * s.heads, tiles = (s.queries + L::kRows - 1) / L::kRows;
  const int64_t bytes = int64_t{2} * (s.width + s.value_width) * s.keys / s.group;
  const HopperForward<Source> a{map(q, L::kRows),
                                map(k, C::kKeys),
                                map(v, C::kKeys),
                                map(out, 64),
                                source,
                                cuda::data<float>(lse),
                                s.batch,
                                s.heads,
                                s.group,
                                s.queries,
                                static_cast<float>(s.scale),
                                static_cast<float>(s.scale) * kLog2e,
                                tiles,
                                section_of(bytes, heads)};
  cuda::launch("attention", q.device(), hopper::forward_kernel<T, C, Source>,
               grid_of(int64_t{tiles} * heads), L::kThreads, L::kBytes, a);
}

template <class T, class C>
void forward(const Sizes& s, const SparseTiles& keys, const Tensor& q, const Tensor& k,
             const Tensor& v, const Tensor& out, const Tensor& lse) {
  if (keys.lists.counts == nullptr) {
    using Source = SpanSource<Windowed, HopperTile<C>::kRows, C::kKeys>;
    forward<T, C>(s, Source{{s, keys}}, q, k, v, out, lse);
  } else {
    forward<T, C>(s, ListSource<C::kKeys>{{s, keys}}, q, k, v, out, lse);
  }
}

template <class T>
void forward(const Sizes& s, const SparseTiles& keys, const Tensor& q, const Tensor& k,
             const Tensor& v, const Tensor& out, const Tensor& lse) {
  if (std::max(s.width, s.value_width) <= 64) {
    forward<T, NarrowShape>(s, keys, q, k, v, out, lse);
  } else {
    forward<T, WideShape>(s, keys, q, k, v, out, lse);
  }
}

template <class T>
void backward(const hopper_backward::Inputs<SparseTiles>& by_query,
              const hopper_backward::Inputs<SparseTiles>& by_key) {
  using namespace hopper_backward;
  if (std::max(by_key.s.width, by_key.s.value_width) <= 64) {
    run_keys<T, Shape<64, 64, 3>>(by_key);
    run_queries<T, Shape<64, 128, 3>>(by_query);
  } else {
    run_keys<T, Shape<128, 64, 3>>(by_key);
    run_queries<T, Shape<128, 64, 3>>(by_query);
  }
}

bool fits_block(const SparseTiles& tiles) {
  return tiles.lists.counts == nullptr || (tiles.own_block == 7 && tiles.other_block == 7);
}

}  // namespace

bool sparse_fits_hopper(const Sizes& s, const SparseTiles& keys, const TensorList& tensors) {
  bool fits = cuda::is_hopper(tensors[0].device()) && std::max(s.width, s.value_width) <= 128 &&
              fits_block(keys);
  for (const Tensor& x : tensors) fits = fits && cuda::fits_tensor_map(x);
  return fits;
}

void forward_sparse_hopper(const Sizes& s, const SparseTiles& keys, const Tensor& q,
                           const Tensor& k, const Tensor& v, const Tensor& out, const Tensor& lse) {
  if (q.dtype() == DType::bf16) {
    forward<bfloat16>(s, keys, q, k, v, out, lse);
  } else {
    forward<float16>(s, keys, q, k, v, out, lse);
  }
}

void backward_sparse_hopper(const Sizes& s, const SparseTiles& keys, const SparseTiles& queries,
                            const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& out,
                            const Tensor& lse, const Tensor& grad_out, const Tensor& grad_lse,
                            const DenseGradients& grads) {
  const RowStatistics rows = row_statistics(s, out, lse, grad_out, grad_lse);
  const hopper_backward::Inputs<SparseTiles> by_query{s, keys, q, k, v, grad_out, rows, grads};
  const hopper_backward::Inputs<SparseTiles> by_key{s, queries, q, k, v, grad_out, rows, grads};
  if (q.dtype() == DType::bf16) {
    backward<bfloat16>(by_query, by_key);
  } else {
    backward<float16>(by_query, by_key);
  }
}

}  // namespace tessera::dense
