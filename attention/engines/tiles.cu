#include "tessera/attention/engines/dense_kernels.h"
#include "tessera/attention/engines/engine_cuda.h"
#include "tessera/attention/engines/tile_kernels.h"
#include "tessera/attention/engines/tiles_cuda.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/view.h"

namespace tessera {
namespace {

constexpr int64_t kTableBytes = 64 << 20;  // of copies of tables that add up gradients
constexpr int64_t kTableBlocks = 1024;     // that suffice to fill a device

struct Identity {
  static constexpr std::string_view name = "attention";
  template <class T>
  TESSERA_HD T operator()(T s) const {
    return s;
  }
};

void launch(const Score& score, const TileLaunch& l) {
  if (score.is_identity()) {
    const Identity identity;
    tile::launch<Identity>(&identity, l);
    return;
  }
  const ScoreKernels& kernels = score.kernels();
  check(kernels.launch != nullptr, "attention: the score {} was compiled without CUDA",
        kernels.name);
  kernels.launch(kernels.functor, l);
}

int narrow(int64_t n) {
  check(n < int64_t{1} << 30, "attention: {} is too large for one dimension", n);
  return static_cast<int>(n);
}

TileTensor tile_tensor(const Tensor& x) {
  auto stride = [&](int64_t dim) { return x.size(dim) <= 1 ? 0 : x.stride(dim); };
  TileTensor t{x.raw_data(), stride(0), stride(1), stride(2), narrow(x.size(3)), x.dtype()};
  const int64_t bytes = std::min<int64_t>(16, 4 * size_of(x.dtype()));
  t.vector = reinterpret_cast<uintptr_t>(t.data) % bytes == 0;
  for (int64_t n : {int64_t{t.width}, t.batch, t.head, t.row}) t.vector = t.vector && n % 4 == 0;
  return t;
}

DType compute_type(const Tensor& x) {
  return x.dtype() == DType::f64 ? DType::f64 : DType::f32;
}

int parts_of(int64_t width) {
  return narrow((width + kTileSide - 1) / kTileSide);
}

TiledAttention prepared(TiledAttention a) {
  for (Tensor* x : {&a.query, &a.key, &a.value}) *x = engine::with_dense_rows(*x);
  TensorList tables;
  for (const Tensor& x : a.score.tables()) {
    check(x.dtype() == compute_type(a.query) && x.device() == a.query.device(),
          "{}: a table is {} on {}, wants {} on {}", a.score.name(), x.dtype(), x.device(),
          compute_type(a.query), a.query.device());
    tables.push_back(kernels::contiguous(x));
  }
  a.score = a.score.with(tables);
  return a;
}

TileArguments arguments_of(const TiledAttention& a) {
  TileArguments t;
  t.rule = a.rule;
  t.source = a.source;
  t.batch = narrow(a.query.size(0));
  t.heads = narrow(a.query.size(1));
  t.key_heads = narrow(a.key.size(1));
  t.scale = a.scale;
  t.query = tile_tensor(a.query);
  t.key = tile_tensor(a.key);
  t.value = tile_tensor(a.value);
  for (size_t k = 0; k < a.score.tables().size(); ++k) {
    t.tables[k].values = a.score.tables()[k].raw_data();
    t.tables[k].size = a.score.tables()[k].numel();
  }
  return t;
}

using Products = TileLaunch::Products;

// Rows that tensor cores can read as they are.
bool in_chunks(const TileTensor& x) {
  auto fits = [](int64_t n) { return n % 8 == 0; };
  return x.vector && fits(x.width) && fits(x.batch) && fits(x.head) && fits(x.row) &&
         reinterpret_cast<uintptr_t>(x.data) % 16 == 0;
}

size_t shared_bytes(const TileArguments& t, TileLaunch::Kernel kernel, Products products, int parts,
                    bool cells) {
  if (products == Products::f64) return tile::plain_bytes<double>(parts, cells);
  if (products == Products::f32) return tile::plain_bytes<float>(parts, cells);
  const int keys = parts_of(t.key.width), values = parts_of(t.value.width);
  const bool forward = kernel == TileLaunch::Kernel::forward;
  return tile::half_bytes(2 * keys + (forward ? 1 : 2) * values, parts, cells);
}

// Launches with as many parts of the result to a block as fit its shared memory.
void launch(const TiledAttention& a, TileArguments& t, TileLaunch::Kernel kernel, int64_t blocks,
            int parts, bool cells) {
  const Device device = a.query.device();
  Products products = a.query.dtype() == DType::f64 ? Products::f64 : Products::f32;
  auto bytes = [&](int each) { return shared_bytes(t, kernel, products, each, cells); };
  if (is_half(a.query.dtype()) && in_chunks(t.query) && in_chunks(t.key) && in_chunks(t.value) &&
      (kernel == TileLaunch::Kernel::forward || in_chunks(t.grad_output))) {
    products = Products::halves;
    if (bytes(1) > cuda::shared_limit(device)) products = Products::f32;
  }
  t.parts = std::max(1, parts);
  int most = 1;
  while (most < t.parts && bytes(most + 1) <= cuda::shared_limit(device)) ++most;
  const int split = (t.parts + most - 1) / most;
  t.parts_per_block = (t.parts + split - 1) / split;
  launch(a.score, {kernel, products, device, blocks, bytes(t.parts_per_block), &t});
}

// ⟨dO, O⟩ − dL of every row: a warp each.
template <class T>
__global__ void row_products_kernel(TileTensor out, TileTensor grad_out, const T* grad_lse,
                                    T* delta, int64_t count, int heads, int queries) {
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  const int64_t warps = cuda::thread_count() / cuda::kWarp;
  for (int64_t i = cuda::thread_index() / cuda::kWarp; i < count; i += warps) {
    const int64_t row = i % queries;
    const int h = static_cast<int>(i / queries % heads), b = static_cast<int>(i / queries / heads);
    T dot = 0;
    for (int column = 4 * lane; column < out.width; column += 4 * cuda::kWarp) {
      const auto x = tile::load_quad<T>(out, out.at(b, h) + row * out.row, column);
      const auto y = tile::load_quad<T>(grad_out, grad_out.at(b, h) + row * grad_out.row, column);
      for (int e = 0; e < 4; ++e) dot += x[e] * y[e];
    }
    dot = cuda::warp_reduce(dot, cuda::Sum());
    if (lane == 0) delta[i] = dot - (grad_lse != nullptr ? grad_lse[i] : T{0});
  }
}

// Copy 0 ← the sum of all copies, in order.
template <class T>
__global__ void sum_copies_kernel(T* x, int64_t size, int copies) {
  for (int64_t i = cuda::thread_index(); i < size; i += cuda::thread_count()) {
    T sum = x[i];
#pragma unroll 8
    for (int c = 1; c < copies; ++c) sum += x[c * size + i];
    x[i] = sum;
  }
}

template <class Fn>
void visit_compute(DType dtype, const Fn& fn) {
  if (dtype == DType::f64) {
    fn.template operator()<double>();
  } else {
    fn.template operator()<float>();
  }
}

Tensor row_products(const AttentionResult& forward, const Tensor& grad_out,
                    const Tensor& grad_lse) {
  const Tensor& lse = forward.logsumexp;
  const Tensor delta = empty(lse.shape(), {lse.dtype(), lse.device()});
  const Tensor out = engine::with_dense_rows(forward.output);
  visit_compute(lse.dtype(), [&]<class T>() {
    cuda::launch("attention", lse.device(), row_products_kernel<T>,
                 cuda::blocks_for(lse.numel(), 8), 256, 0, tile_tensor(out), tile_tensor(grad_out),
                 grad_lse.defined() ? cuda::data<T>(grad_lse) : nullptr, cuda::data<T>(delta),
                 lse.numel(), narrow(lse.size(1)), narrow(lse.size(2)));
  });
  return delta;
}

// How many copies of tables, and which tiles add to which.
TableWalk walk_of(const TiledAttention& a, int64_t tiles) {
  const bool* differs = a.score.kernels().differs;
  TableWalk w{differs[0], differs[1], differs[2]};
  const int64_t sizes[] = {a.query.size(0), a.query.size(1), tiles};
  int64_t classes = 1, length = 1, bytes = 1;
  for (int axis = 0; axis < 3; ++axis) (differs[axis] ? classes : length) *= sizes[axis];
  for (const Tensor& x : a.score.tables()) bytes += x.numel() * size_of(x.dtype());
  const int64_t enough = (kTableBlocks + classes - 1) / std::max<int64_t>(1, classes);
  w.parts = narrow(
      std::clamp<int64_t>(std::min(kTableBytes / bytes, enough), 1, std::max<int64_t>(1, length)));
  return w;
}

// dQ and the gradients of the tables.
TensorList over_queries(const TiledAttention& a, TileArguments t, bool wants_tables) {
  const int64_t tiles = a.source.tiles(a.rule, Side::queries);
  int64_t blocks = a.query.size(0) * a.query.size(1) * tiles;
  const int parts = parts_of(a.query.size(3));
  if (!wants_tables || a.score.is_identity() || a.score.tables().empty()) {
    launch(a, t, TileLaunch::Kernel::over_queries, blocks, parts, false);
    return {};
  }
  t.walk = walk_of(a, tiles);
  const bool* differs = a.score.kernels().differs;
  t.rows_differ = differs[2];
  t.columns_differ = differs[3];
  const bool all_differ = t.rows_differ && t.columns_differ;
  TensorList copies, sums;
  for (const Tensor& x : a.score.tables()) {
    check(all_differ || x.numel() < int64_t{1} << 31, "{}: a table of {} entries is too large",
          a.score.name(), x.numel());
    copies.push_back(zeros({t.walk.parts, x.numel()}, {x.dtype(), x.device()}));
    t.tables[copies.size() - 1].gradients = copies.back().raw_data();
  }
  const TableWalk& w = t.walk;
  blocks = (w.batch ? a.query.size(0) : 1) * (w.head ? a.query.size(1) : 1) * (w.tile ? tiles : 1) *
           w.parts;
  if (a.query.size(0) * a.query.size(1) * tiles == 0) blocks = 0;
  launch(a, t, TileLaunch::Kernel::over_queries, blocks, parts, !all_differ);
  for (size_t k = 0; k < copies.size(); ++k) {
    visit_compute(copies[k].dtype(), [&]<class T>() {
      const int64_t size = copies[k].size(1);
      if (w.parts > 1) {
        cuda::launch("attention", copies[k].device(), sum_copies_kernel<T>,
                     cuda::blocks_for(size, 64), 64, 0, cuda::data<T>(copies[k]), size, w.parts);
      }
    });
    sums.push_back(views::reshape(views::select(copies[k], 0, 0), a.score.tables()[k].shape()));
  }
  return sums;
}

}  // namespace

AttentionResult attend_tiles_cuda(const TiledAttention& given) {
  const TiledAttention a = prepared(given);
  const Device device = a.query.device();
  const int64_t batch = a.query.size(0), heads = a.query.size(1), n = a.query.size(2);
  const AttentionResult r{
      engine::empty_heads({batch, heads, n, a.value.size(3)}, a.query.dtype(), device),
      empty({batch, heads, n}, {compute_type(a.query), device})};
  TileArguments t = arguments_of(a);
  t.results[0] = tile_tensor(r.output);
  t.logsumexp = r.logsumexp.raw_data();
  t.entries = engine::entry_counter(device);
  launch(a, t, TileLaunch::Kernel::forward, batch * heads * a.source.tiles(a.rule, Side::queries),
         parts_of(a.value.size(3)), false);
  return r;
}

AttentionGradients attend_tiles_backward_cuda(const TiledAttention& given,
                                              const AttentionResult& forward,
                                              const Tensor& grad_output,
                                              const Tensor& grad_logsumexp, bool wants_tables) {
  const TiledAttention a = prepared(given);
  const Tensor grad_out = engine::with_dense_rows(grad_output);
  const Tensor grad_lse = grad_logsumexp.defined() ? kernels::contiguous(grad_logsumexp) : Tensor();
  const Tensor delta = row_products(forward, grad_out, grad_lse);
  auto like = [](const Tensor& x) { return engine::empty_heads(x.shape(), x.dtype(), x.device()); };
  AttentionGradients g{like(a.query), like(a.key), like(a.value), {}};
  TileArguments t = arguments_of(a);
  t.grad_output = tile_tensor(grad_out);
  t.logsumexp = forward.logsumexp.raw_data();
  t.delta = delta.raw_data();
  t.results[0] = tile_tensor(g.query);
  g.tables = over_queries(a, t, wants_tables);
  t.results[0] = tile_tensor(g.key);
  t.results[1] = tile_tensor(g.value);
  launch(a, t, TileLaunch::Kernel::over_keys,
         a.key.size(0) * a.key.size(1) * a.source.tiles(a.rule, Side::keys),
         parts_of(a.key.size(3)) + parts_of(a.value.size(3)), false);
  return g;
}

}  // namespace tessera
