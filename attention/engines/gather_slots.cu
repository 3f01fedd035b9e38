#include <bit>
#include <cub/device/device_radix_sort.cuh>

#include "tessera/attention/engines/gather_kernels.h"
#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/math.h"
#include "tessera/core/view.h"

namespace tessera::lists {
namespace {

constexpr int kThreads = 256;

// Places by the row they name, −1 behind the last row.
__global__ void key_kernel(uint32_t* keys, uint32_t* places, const int32_t* lists, int64_t count,
                           int64_t per_head, int rows) {
  for (int64_t i = cuda::thread_index(); i < count; i += cuda::thread_count()) {
    const int64_t head = i / per_head;
    const int id = lists[i];
    const int64_t row = id == -1 ? rows : cuda::checked_index("gather_attention", id, rows);
    keys[i] = static_cast<uint32_t>(head * (rows + 1) + row);
    places[i] = static_cast<uint32_t>(i - head * per_head);
  }
}

__global__ void first_kernel(int32_t* first, int64_t count, const uint32_t* keys, int64_t size) {
  for (int64_t i = cuda::thread_index(); i < count; i += cuda::thread_count()) {
    int64_t low = 0, high = size;
    while (low < high) {
      const int64_t middle = (low + high) / 2;
      if (keys[middle] < static_cast<uint32_t>(i)) {
        low = middle + 1;
      } else {
        high = middle;
      }
    }
    first[i] = static_cast<int32_t>(low);
  }
}

// Slots of queries in pieces of 16 bytes, logsumexps with their strides.
template <class T>
struct Slots {
  dense::Heads<const T> output;
  const cuda::Compute<T>* lse = nullptr;  // null: plain sums
  int64_t lse_batch = 0, lse_head = 0, lse_slot = 0;
  Lists lists;
  Inverse inverse;
  int batch = 0, heads = 0, queries = 0, width = 0;  // heads of the results
  int group = 1;  // heads of slots that are added up to one of the results
  Combine how = Combine::sum;

  __device__ cuda::Compute<T> lse_of(int b, int h, int64_t slot) const {
    return lse[b * lse_batch + h * lse_head + slot * lse_slot];
  }
};

template <class T>
Slots<T> slots_of(const Tensor& output, const Tensor& lse, const Tensor& lists, int64_t queries,
                  Combine how, int64_t group = 1) {
  Slots<T> s;
  s.output = dense::Heads<const T>(output);
  if (lse.defined()) {
    s.lse = cuda::data<cuda::Compute<T>>(lse);
    s.lse_batch = lse.stride(0);
    s.lse_head = lse.stride(1);
    s.lse_slot = lse.stride(2);
  }
  s.lists = Lists(lists);
  s.batch = static_cast<int>(output.size(0));
  s.heads = static_cast<int>(output.size(1) / group);
  s.group = static_cast<int>(group);
  s.queries = static_cast<int>(queries);
  s.width = static_cast<int>(output.size(3));
  s.how = how;
  return s;
}

// One thread for every 16 bytes of the result.
template <class T>
__global__ void combine_kernel(Slots<T> s, dense::Heads<T> out, cuda::Compute<T>* lse) {
  using C = cuda::Compute<T>;
  constexpr int kEach = cuda::kVectorSize<T>;
  const int pieces = s.width / kEach;
  const int64_t count = static_cast<int64_t>(s.batch) * s.heads * s.queries * pieces;
  for (int64_t t = cuda::thread_index(); t < count; t += cuda::thread_count()) {
    const int piece = static_cast<int>(t % pieces);
    const int64_t row = t / pieces;
    const int i = static_cast<int>(row % s.queries);
    const int h = static_cast<int>(row / s.queries % s.heads);
    const int b = static_cast<int>(row / s.queries / s.heads);
    const IndexRange own = s.inverse.of(s.lists.head_of(b, h), i);
    C top = -INFINITY, total = 0;
    if (s.lse != nullptr) {
      for (int p = own.begin; p < own.end; ++p) {
        top = max(top, s.lse_of(b, h, s.inverse.places[p]));
      }
      for (int p = own.begin; p < own.end && top > -INFINITY; ++p) {
        total += math::exp(s.lse_of(b, h, s.inverse.places[p]) - top);
      }
    }
    C sum[kEach] = {};
    auto add = [&](int from, int64_t slot, C weight) {
      const auto x = cuda::load<kEach>(s.output.at(b, from) + slot * s.output.row + piece * kEach);
#pragma unroll
      for (int e = 0; e < kEach; ++e) sum[e] += weight * convert<C>(x[e]);
    };
    if (s.how == Combine::sum) {
      for (int from = h * s.group; from < (h + 1) * s.group; ++from) {
        const IndexRange places = s.inverse.of(s.lists.head_of(b, from), i);
        for (int p = places.begin; p < places.end; ++p) add(from, s.inverse.places[p], 1);
      }
    }
    for (int p = own.begin; p < own.end && s.how != Combine::sum; ++p) {
      const int64_t slot = s.inverse.places[p];
      const C mine = s.lse_of(b, h, slot);
      const C w = s.how == Combine::mean ? C{1} / static_cast<C>(own.end - own.begin)
                  : mine == -INFINITY    ? C{0}
                                         : math::exp(mine - top) / total;
      if (w != 0) add(h, slot, w);
    }
    cuda::Vector<T, kEach> y;
#pragma unroll
    for (int e = 0; e < kEach; ++e) y[e] = convert<T>(sum[e]);
    cuda::store(out.at(b, h) + static_cast<int64_t>(i) * out.row + piece * kEach, y);
    if (lse != nullptr && piece == 0) {
      lse[row] = top > -INFINITY ? top + math::log(total) : static_cast<C>(-INFINITY);
    }
  }
}

// One warp per slot.
template <class T>
__global__ void combine_backward_kernel(Slots<T> s, dense::Heads<const T> out,
                                        const cuda::Compute<T>* lse, dense::Heads<const T> grad,
                                        const cuda::Compute<T>* grad_lse, dense::Heads<T> to,
                                        cuda::Compute<T>* to_lse) {
  using C = cuda::Compute<T>;
  constexpr int kEach = cuda::kVectorSize<T>;
  const int lane = static_cast<int>(threadIdx.x % cuda::kWarp);
  const int64_t per_head = s.lists.size();
  const int64_t count = static_cast<int64_t>(s.batch) * s.heads * per_head;
  const int64_t warps = cuda::thread_count() / cuda::kWarp;
  for (int64_t t = cuda::thread_index() / cuda::kWarp; t < count; t += warps) {
    const int64_t slot = t % per_head;
    const int h = static_cast<int>(t / per_head % s.heads);
    const int b = static_cast<int>(t / per_head / s.heads);
    const int i = s.lists.head(b, h)[slot];
    const int64_t row = (static_cast<int64_t>(b) * s.heads + h) * s.queries + i;
    C w = 0, own = 0, dot = 0;
    if (i >= 0) {
      const C mine = s.lse_of(b, h, slot);
      own = mine == -INFINITY ? C{0} : math::exp(mine - lse[row]);
      w = own;
      if (s.how == Combine::sum) w = 1;
      if (s.how == Combine::mean) {
        const IndexRange all = s.inverse.of(s.lists.head_of(b, h), i);
        w = C{1} / static_cast<C>(all.end - all.begin);
      }
    }
    for (int d = lane * kEach; d < s.width; d += static_cast<int>(cuda::kWarp) * kEach) {
      cuda::Vector<T, kEach> y{};
      if (i >= 0) {
        const auto g = cuda::load<kEach>(grad.at(b, h) + i * grad.row + d);
        if (s.how == Combine::merge && w != 0) {
          const auto x = cuda::load<kEach>(s.output.at(b, h) + slot * s.output.row + d);
          const auto all = cuda::load<kEach>(out.at(b, h) + i * out.row + d);
#pragma unroll
          for (int e = 0; e < kEach; ++e) {
            dot += convert<C>(g[e]) * (convert<C>(x[e]) - convert<C>(all[e]));
          }
        }
#pragma unroll
        for (int e = 0; e < kEach; ++e) y[e] = convert<T>(w * convert<C>(g[e]));
      }
      cuda::store(to.at(b, h) + slot * to.row + d, y);
    }
    dot = cuda::warp_reduce(dot, cuda::Sum());
    if (lane == 0) {
      const C down = grad_lse != nullptr && i >= 0 ? grad_lse[row] : C{0};
      to_lse[t] = own == 0 ? C{0} : own * (down + dot);
    }
  }
}

}  // namespace

Inverse invert(const Tensor& lists, int64_t rows, TensorList& keep) {
  const Device device = lists.device();
  const int64_t heads = lists.size(0) * lists.size(1);
  const int64_t per_head = lists.size(2) * lists.size(3), count = heads * per_head;
  const int64_t names = heads * (rows + 1);
  check(count < INT_MAX && names < UINT_MAX,
        "gather_attention: lists {} of {} rows are too many to be sorted at once", lists.shape(),
        rows);
  auto room = [&](int64_t size) { return empty({size}, {DType::i32, device}); };
  const Tensor keys = room(count), sorted = room(count), places = room(count);
  const Tensor ordered = room(count), first = room(names);
  auto data = [](const Tensor& x) { return static_cast<uint32_t*>(x.raw_data()); };
  if (count > 0) {
    cuda::launch("gather_attention", device, key_kernel, cuda::blocks_for(count, kThreads),
                 kThreads, 0, data(keys), data(places), cuda::data<int32_t>(lists), count, per_head,
                 static_cast<int>(rows));
    const int bits = static_cast<int>(std::bit_width(static_cast<uint64_t>(names)));
    size_t bytes = 0;
    auto sort = [&](void* space) {
      cuda::check_status(cub::DeviceRadixSort::SortPairs(
                             space, bytes, data(keys), data(sorted), data(places), data(ordered),
                             static_cast<int>(count), 0, bits, cuda::stream(device)),
                         "gather_attention");
    };
    sort(nullptr);
    const Tensor space = empty({static_cast<int64_t>(bytes)}, {DType::u8, device});
    sort(space.raw_data());
  }
  cuda::launch("gather_attention", device, first_kernel, cuda::blocks_for(names, kThreads),
               kThreads, 0, cuda::data<int32_t>(first), names, data(sorted), count);
  keep.push_back(first);
  keep.push_back(ordered);
  return {cuda::data<int32_t>(first), data(ordered), static_cast<int>(rows)};
}

Tensor empty_pieces(const Shape& shape, DType dtype, Device device) {
  const int64_t each = 16 / size_of(dtype);
  return engine::empty_heads({shape[0], shape[1], shape[2], (shape[3] + each - 1) / each * each},
                             dtype, device);
}

Tensor in_pieces(const Tensor& x) {
  const int64_t each = 16 / size_of(x.dtype());
  bool fits = x.size(3) % each == 0 && (x.size(3) <= 1 || x.stride(3) == 1) &&
              reinterpret_cast<uintptr_t>(x.raw_data()) % 16 == 0;
  for (int64_t d = 0; d < 3; ++d) fits = fits && (x.size(d) <= 1 || x.stride(d) % each == 0);
  if (fits) return x;
  const Tensor wide = empty_pieces(x.shape(), x.dtype(), x.device());
  kernels::copy(views::slice(wide, 3, 0, x.size(3)), x);
  if (wide.size(3) > x.size(3)) kernels::fill(views::slice(wide, 3, x.size(3), wide.size(3)), 0);
  return wide;
}

namespace {

AttentionResult combine(const AttentionResult& slots, const Tensor& lists, const Inverse& inverse,
                        Combine how, int64_t group) {
  const Tensor from = in_pieces(slots.output), &lse = slots.logsumexp;
  const Shape rows{from.size(0), from.size(1) / group, inverse.rows};
  const Tensor out =
      empty_pieces({rows[0], rows[1], rows[2], from.size(3)}, from.dtype(), from.device());
  const Tensor all = lse.defined() ? empty(rows, {lse.dtype(), lse.device()}) : Tensor();
  cuda::visit_floating("combine_slots", from.dtype(), [&]<class T>() {
    auto s = slots_of<T>(from, lse, lists, inverse.rows, how, group);
    s.inverse = inverse;
    cuda::launch("combine_slots", from.device(), combine_kernel<T>,
                 cuda::blocks_for(rows.numel() * (s.width / cuda::kVectorSize<T>), kThreads),
                 kThreads, 0, s, dense::Heads<T>(out),
                 lse.defined() ? cuda::data<cuda::Compute<T>>(all) : nullptr);
  });
  return {first_columns(out, slots.output.size(3)), all};
}

}  // namespace

AttentionResult combine_slots_cuda(const AttentionResult& slots, const Tensor& query_lists,
                                   int64_t queries, Combine how) {
  TensorList keep;
  return combine(slots, query_lists, invert(query_lists, queries, keep), how, 1);
}

TensorList sum_slots_cuda(const TensorList& xs, const Tensor& lists, int64_t rows, int64_t heads) {
  TensorList keep, sums;
  const Inverse inverse = invert(lists, rows, keep);
  for (const Tensor& x : xs) {
    const int64_t group = x.size(1) / std::max<int64_t>(1, heads);
    sums.push_back(combine({x, {}}, lists, inverse, Combine::sum, group).output);
  }
  return sums;
}

AttentionResult combine_slots_backward_cuda(const AttentionResult& slots, const Tensor& query_lists,
                                            Combine how, const AttentionResult& combined,
                                            const Tensor& grad_output,
                                            const Tensor& grad_logsumexp) {
  const Tensor from = in_pieces(slots.output), out = in_pieces(combined.output);
  const Tensor grad = in_pieces(grad_output), &lse = slots.logsumexp;
  const Tensor grad_lse = grad_logsumexp.defined() ? kernels::contiguous(grad_logsumexp) : Tensor();
  const Tensor to = empty_pieces(from.shape(), from.dtype(), from.device());
  const Tensor to_lse = empty(lse.shape(), {lse.dtype(), lse.device()});
  TensorList keep;
  cuda::visit_floating("combine_slots", from.dtype(), [&]<class T>() {
    using C = cuda::Compute<T>;
    auto s = slots_of<T>(from, lse, query_lists, combined.output.size(2), how);
    if (how == Combine::mean) s.inverse = invert(query_lists, s.queries, keep);
    cuda::launch("combine_slots", from.device(), combine_backward_kernel<T>,
                 cuda::blocks_for(to_lse.numel(), kThreads / cuda::kWarp), kThreads, 0, s,
                 dense::Heads<const T>(out), cuda::data<C>(combined.logsumexp),
                 dense::Heads<const T>(grad),
                 grad_lse.defined() ? cuda::data<C>(grad_lse) : nullptr, dense::Heads<T>(to),
                 cuda::data<C>(to_lse));
  });
  return {first_columns(to, slots.output.size(3)), to_lse};
}

}  // namespace tessera::lists
