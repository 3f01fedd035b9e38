// What the files of the linear engine on CUDA share: a pass as kernels see it.
#pragma once

#include "tessera/attention/engines/dense_kernels.h"
#include "tessera/attention/engines/linear_cuda.h"

namespace tessera::linear_engine {

constexpr int kWidestHalves = 128;
constexpr int kHalvesChunk = 64;
constexpr int kExactChunk = 32;

// A block runs one segment of one head for some columns of the values. kGather: it only adds up
// what its segment leaves, T: element type, A: of states, decays and sums.
template <class T, class A>
struct Arguments {
  dense::Heads<const T> query, key, value, partner;  // query and partner unused when gathering
  int query_group, key_group, value_group, partner_group;  // query heads that share a head
  int query_columns, value_columns;                        // widths in memory
  dense::Heads<T> out;
  dense::Heads<A> wide;  // in place of out, where set
  const A* log_decay;    // null: none
  bool per_token;
  const A* states;  // (B, H, segments, W, E)
  int64_t state_strides[5];
  A* left;  // gathering: (B, H, segments, W, E), else null or (B, H, W, E): after the last segment
  A* decays;  // gathering: (B, H, segments)
  // With a partner, for the gradient of decays (see Trace); parts are column tiles, or warps of
  // them.
  A* dots;          // (2, column tiles, B, H, N)
  T* chunk_states;  // written forward, read backward
  A* borders;       // (parts, B, H, chunks)
  int batch, heads, length, segment, segments, chunks, width, value_width;
  A scale;
  bool backward;

  TESSERA_HD const A* decay_of(int b, int h) const {
    return per_token ? log_decay + (static_cast<int64_t>(b) * heads + h) * length : log_decay + h;
  }
  TESSERA_HD int last_segment() const { return backward ? 0 : segments - 1; }
};

// The place of a block: the tiles of a segment follow one another, so that they share what they
// read.
struct Place {
  int b, h, segment, tile;
};
TESSERA_HD inline Place place_of(int64_t block, int tiles, int segments, int first, int heads) {
  Place p;
  p.tile = static_cast<int>(block % tiles);
  p.segment = static_cast<int>(block / tiles % segments) + first;
  const auto head = static_cast<int>(block / tiles / segments);
  p.b = head / heads;
  p.h = head % heads;
  return p;
}

template <class T, class A>
Arguments<T, A> arguments_of(const Pass& p, const Tensor& states) {
  Arguments<T, A> a{};
  const auto group = [&](const Tensor& x) { return static_cast<int>(p.heads / x.size(1)); };
  const auto narrow = [](int64_t n) { return static_cast<int>(n); };
  a.key = dense::Heads<const T>(p.key);
  a.value = dense::Heads<const T>(p.value);
  a.key_group = group(p.key);
  a.value_group = group(p.value);
  a.query_columns = narrow(p.key.size(3));
  a.value_columns = narrow(p.value.size(3));
  if (p.log_decay.defined()) {
    a.log_decay = cuda::data<A>(p.log_decay);
    a.per_token = p.log_decay.rank() == 3;
  }
  a.batch = narrow(p.batch());
  a.heads = narrow(p.heads);
  a.length = narrow(p.length());
  a.segment = narrow(p.segment);
  a.segments = narrow(p.segments());
  a.chunks = narrow(p.chunks());
  a.width = narrow(states.size(3));
  a.value_width = narrow(states.size(4));
  a.scale = static_cast<A>(p.scale);
  a.backward = p.backward;
  return a;
}

// What a pass writes beside a partner's trace; `state` may be undefined. The widths of the states
// are the real ones, those of the tensors may be padded.
struct Outputs {
  Tensor out, state;
  Tensor partner;  // read
  Trace trace;
};

template <class T, class A>
Arguments<T, A> arguments_of(const Pass& p, const Tensor& states, const Outputs& to) {
  Arguments<T, A> a = arguments_of<T, A>(p, states);
  a.query = dense::Heads<const T>(p.query);
  a.query_group = static_cast<int>(p.heads / p.query.size(1));
  if (to.out.dtype() == dtype_of<T>()) {
    a.out = dense::Heads<T>(to.out);
  } else {
    a.wide = dense::Heads<A>(to.out);
  }
  a.states = cuda::data<A>(states);
  for (int d = 0; d < 5; ++d) a.state_strides[d] = states.stride(d);
  if (to.state.defined()) a.left = cuda::data<A>(to.state);
  if (to.partner.defined()) {
    a.partner = dense::Heads<const T>(to.partner);
    a.partner_group = static_cast<int>(p.heads / to.partner.size(1));
    a.dots = cuda::data<A>(to.trace.dots);
    a.chunk_states = cuda::data<T>(to.trace.chunk_states);
    if (p.backward) a.borders = cuda::data<A>(to.trace.borders);
  }
  return a;
}
// Of a pass that only gathers, into dense `states` and `decays` (B, H, segments).
template <class T, class A>
Arguments<T, A> gathering_arguments(const Pass& p, const Tensor& states, const Tensor& decays) {
  Arguments<T, A> a = arguments_of<T, A>(p, states);
  a.left = cuda::data<A>(states);
  a.decays = cuda::data<A>(decays);
  return a;
}

// How the kernels cut a result of these widths.
struct Parts {
  int64_t tiles;          // of columns of the values
  int64_t borders;        // parts of a border
  int64_t state_entries;  // of a chunk's state, over all tiles
};
Parts parts_of_exact(int64_t width, int64_t value_width);
Parts parts_of_halves(int64_t width, int64_t value_width);
void gather_exact(const Pass& p, const Tensor& states, const Tensor& decays);
void gather_halves(const Pass& p, const Tensor& states, const Tensor& decays);
void sums_exact(const Pass& p, const Tensor& states, const Outputs& to);
void sums_halves(const Pass& p, const Tensor& states, const Outputs& to);

}  // namespace tessera::linear_engine
