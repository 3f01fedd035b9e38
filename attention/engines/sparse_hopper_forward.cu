// Forward over windows and lists of blocks of 128 in halves on Hopper.
#include "tessera/attention/engines/hopper_forward.h"
#include "tessera/attention/engines/sparse_tiles.h"

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

template <class T, int kWidth>
void forward(const Sizes& s, const SparseTiles& keys, const Tensor& q, const Tensor& k,
             const Tensor& v, const Tensor& out, const Tensor& lse) {
  using C = HopperShape<kWidth, 2, 40>;  // lists are looked up while tiles are fetched
  // A window bounded on both sides, or on none, gives rows of like length.
  const bool alike = (keys.left == INT_MAX) == (keys.right == INT_MAX);
  if (keys.lists.counts == nullptr) {
    using Source = SpanSource<Windowed, HopperTile<C>::kRows, C::kKeys>;
    run_hopper_forward<T, C>("attention", s, q, k, v, out, lse, Source{{s, keys}}, alike);
  } else {
    using Source = ListSource<C::kKeys>;
    run_hopper_forward<T, C>("attention", s, q, k, v, out, lse, Source{{s, keys}}, alike);
  }
}

template <class T>
void forward(const Sizes& s, const SparseTiles& keys, const Tensor& q, const Tensor& k,
             const Tensor& v, const Tensor& out, const Tensor& lse) {
  if (std::max(s.width, s.value_width) <= 64) {
    forward<T, 64>(s, keys, q, k, v, out, lse);
  } else {
    forward<T, 128>(s, keys, q, k, v, out, lse);
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

}  // namespace tessera::dense
