// What the files of the dense engine on CUDA share: shapes and strides as kernels see them.
#pragma once

#include "tessera/attention/engines/dense_cuda.h"
#include "tessera/core/cuda/runtime.h"

namespace tessera::dense {

// A (B, H, N, D) tensor with dense rows; strides in elements.
template <class T>
struct Heads {
  T* data = nullptr;
  int64_t batch = 0, head = 0, row = 0;

  Heads() = default;
  explicit Heads(const Tensor& x)
      : data(cuda::data<std::remove_const_t<T>>(x)),
        batch(x.stride(0)),
        head(x.stride(1)),
        row(x.stride(2)) {}
  TESSERA_HD T* at(int b, int h) const { return data + b * batch + h * head; }
};

struct Sizes {
  int batch, heads, key_heads, group, queries, keys, width, value_width;
  bool causal;
  double scale;

  // Keys that query i sees: the first visible(i) ones.
  TESSERA_HD int visible(int i) const {
    if (!causal) return keys;
    const int seen = i + 1 + keys - queries;
    return seen < 0 ? 0 : seen < keys ? seen : keys;
  }
  // The first query that sees key j.
  TESSERA_HD int first_query(int j) const {
    const int i = causal ? j - (keys - queries) : 0;
    return i < 0 ? 0 : i;
  }
};

Sizes sizes_of(const Tensor& query, const Tensor& key, const Tensor& value,
               const AttentionOptions& options);
// `count` blocks as a grid; throws beyond what one dimension takes.
unsigned grid_of(int64_t count);

// Where the gradients go. Those of the parts of one packed tensor lie side by side in one buffer,
// which split() then passes on as it is.
DenseGradients empty_gradients(const Tensor& q, const Tensor& k, const Tensor& v);
// Rows in 16-byte pieces: x itself, or a copy with zeros at the end of every row; and the way back.
Tensor in_chunks(const Tensor& x);
Tensor first_columns(const Tensor& x, int64_t width);

// bf16 and f16: rows of at most 256 elements and a multiple of 8, 16-byte aligned, scale > 0.
void forward_halves(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                    const Tensor& out, const Tensor& lse);
void backward_halves(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& out, const Tensor& lse, const Tensor& grad_out,
                     const Tensor& grad_lse, const DenseGradients& grads);

// What a backward in halves needs per query, (B, H, padded): exponent = lse · log2 e, 0 for an lse
// of −inf, +inf in the padding, whose weights are then 0; delta = ⟨dO, O⟩ − dL, 0 in the padding.
constexpr int kStatisticsRows = 384;  // `padded` is a multiple
struct RowStatistics {
  Tensor exponent, delta;
  int padded;
};
RowStatistics row_statistics(const Sizes& s, const Tensor& out, const Tensor& lse,
                             const Tensor& grad_out, const Tensor& grad_lse);

// The same on Hopper, for rows of at most 128 elements and tensors that fit tensor maps.
bool forward_fits_hopper(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v);
void forward_hopper(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                    const Tensor& out, const Tensor& lse);
bool backward_fits_hopper(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                          const Tensor& grad_out);
void backward_hopper(const Sizes& s, const Tensor& q, const Tensor& k, const Tensor& v,
                     const Tensor& out, const Tensor& lse, const Tensor& grad_out,
                     const Tensor& grad_lse, const DenseGradients& grads);

}  // namespace tessera::dense
