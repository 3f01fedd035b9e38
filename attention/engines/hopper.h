// The instructions that only Hopper has (PTX ISA: mbarrier, cp.async.bulk.tensor, wgmma,
// setmaxnreg), one function each, for code compiled for sm_90a. Shared memory is addressed as in
// mma.h. A warpgroup is four consecutive warps, the first a multiple of four.
//
// Tiles in shared memory are what the tensor copies leave there: boxes of 64 columns (128 bytes a
// row), box after box, each at a multiple of 1024 bytes, chunk c of row r at c xor (r mod 8).
//
// Accumulators of a 64 × N product, for lane l of warp w: c[4 j + 2 r + e] is row
// 16 w + l / 4 + 8 r, column 8 j + 2 (l mod 4) + e. So c[8 k …], packed in pairs, is the left
// operand in registers of a next product over columns 16 k … (left_of).
#pragma once

#include <cuda.h>

#include "tessera/attention/engines/mma.h"

namespace tessera::cuda {

constexpr int kWarpgroup = 128;

// The warpgroup of this thread, as a value that the compiler knows to be the same in a whole warp.
__device__ inline int warpgroup() {
  return __shfl_sync(kAllLanes, static_cast<int>(threadIdx.x) / kWarpgroup, 0);
}
// True in one lane of a whole warp.
__device__ inline bool elected() {
  unsigned chosen;
  asm volatile("{ .reg .pred p; elect.sync _|p, 0xffffffff; selp.u32 %0, 1, 0, p; }"
               : "=r"(chosen));
  return chosen != 0;
}

// Registers per thread of the calling warpgroup, a multiple of 8. Needs __launch_bounds__(…, 1).
template <int kRegisters>
__device__ inline void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
__device__ inline void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// ---- Barriers in shared memory: 8 bytes, a phase ends when `count` arrivals and all announced
// bytes are there. The k-th phase has parity k mod 2; waiting for parity 1 of a new one returns.

__device__ inline void barrier_init(unsigned barrier, unsigned count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(count) : "memory");
}
// After the last init, by the thread that did them; __syncthreads() follows.
__device__ inline void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}
__device__ inline void barrier_arrive(unsigned barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
// One arrival of a warp, behind the plain loads of all its lanes: of these, unlike of products, no
// other warp's thread can tell.
__device__ inline void barrier_arrive_warp(unsigned barrier) {
  __syncwarp();
  if (threadIdx.x % 32 == 0) barrier_arrive(barrier);
}
// Arrives, and the phase also waits for `bytes` of copies.
__device__ inline void barrier_expect(unsigned barrier, unsigned bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes)
               : "memory");
}
__device__ inline bool barrier_passed(unsigned barrier, unsigned parity) {
  unsigned passed;
  asm volatile(
      "{ .reg .pred p; mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2; "
      "selp.u32 %0, 1, 0, p; }"
      : "=r"(passed)
      : "r"(barrier), "r"(parity)
      : "memory");
  return passed != 0;
}
__device__ inline void barrier_wait(unsigned barrier, unsigned parity) {
  while (!barrier_passed(barrier, parity)) {
  }
}

// ---- Named barriers, 1 to 15 (0 is __syncthreads): among `threads`, a multiple of 32.

__device__ inline void named_sync(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}
// Counts as there, and goes on.
__device__ inline void named_arrive(int id, int threads) {
  asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- Bulk copies, each issued by one thread.

// What the L2 cache shall do with the lines of a copy.
constexpr uint64_t kCacheFirstOut = 0x12F0000000000000, kCacheKeep = 0x14F0000000000000;

// A box of a tensor map of rank 4; all its bytes count at the barrier, those beyond the tensor
// (also at negative coordinates), which arrive as zeros, too.
__device__ inline void load_box(unsigned to, const CUtensorMap& map, unsigned barrier, int column,
                                int row, int head, int batch, uint64_t cache) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(to),
      "l"(&map), "r"(barrier), "r"(column), "r"(row), "r"(head), "r"(batch), "l"(cache)
      : "memory");
}
// Writes what lies within the tensor.
__device__ inline void store_box(const CUtensorMap& map, unsigned from, int column, int row,
                                 int head, int batch) {
  asm volatile(
      "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5}], [%1];" ::"l"(
          &map),
      "r"(from), "r"(column), "r"(row), "r"(head), "r"(batch)
      : "memory");
}
// A multiple of 16 bytes, both ends aligned to 16.
__device__ inline void load_bulk(unsigned to, const void* from, unsigned bytes, unsigned barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(to),
      "l"(__cvta_generic_to_global(from)), "r"(bytes), "r"(barrier)
      : "memory");
}
__device__ inline void store_bulk(void* to, unsigned from, unsigned bytes) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(to)),
               "r"(from), "r"(bytes)
               : "memory");
}
// to[i] += from[i] in f32.
__device__ inline void add_bulk(float* to, unsigned from, unsigned bytes) {
  asm volatile("cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%0], [%1], %2;" ::"l"(
                   __cvta_generic_to_global(to)),
               "r"(from), "r"(bytes)
               : "memory");
}
__device__ inline void commit_stores() {
  asm volatile("cp.async.bulk.commit_group;" ::: "memory");
}
// Until all but `kOpen` of this thread's groups of stores have read their shared memory, or are
// visible to others.
template <int kOpen>
__device__ inline void wait_stores_read() {
  asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(kOpen) : "memory");
}
template <int kOpen>
__device__ inline void wait_stores() {
  asm volatile("cp.async.bulk.wait_group %0;" ::"n"(kOpen) : "memory");
}
__device__ inline void prefetch_map(const CUtensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}
// In every thread that wrote shared memory by ordinary stores, before the barrier after which
// wgmma or a bulk copy reads it.
__device__ inline void fence_shared_writes() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// Four 8 × 8 matrices of halves into shared memory; lane l gives the address of row l mod 8 of
// matrix l / 8. In the transposed form that address is of a column.
__device__ inline void store_matrices(unsigned address, const unsigned (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}
__device__ inline void store_transposed(unsigned address, const unsigned (&r)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address),
               "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
               : "memory");
}

// ---- Products of a warpgroup. Operands in shared memory are given by descriptors; make one for a
// tile, then add offsets in bytes / 16 (within and between the boxes of a tile):
//   the tile's columns are summed over (Q and K in Q Kᵀ)      trans 0; 16 columns on: + 32 bytes,
//                                                             after four the next box
//   the tile's rows are summed over (V in P V; Q in dSᵀ Q)    trans 1; 16 rows on: + 2048 bytes
// The 64 rows of a left operand begin at a multiple of 8 rows (+ 8192 bytes for each 64).

// `box_bytes`: from one box to the next, used only with trans 1 and more than 64 columns.
__device__ inline uint64_t descriptor(unsigned address, unsigned box_bytes) {
  constexpr uint64_t kSwizzled128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 >> 4} << 32;
  return kSwizzled128 | kEightRows | uint64_t{(box_bytes & 0x3ffff) >> 4} << 16 |
         (address & 0x3ffff) >> 4;
}

// Before the first product that uses registers which ordinary instructions have touched.
__device__ inline void products_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ inline void products_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
// Until at most `kOpen` groups of this warpgroup are under way. The compiler moves arithmetic that
// stands before it behind it; a barrier_wait() between them holds it back.
template <int kOpen>
__device__ inline void products_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kOpen) : "memory");
}
// Keeps the compiler from moving uses of registers across this point: before products_begin() and
// after products_wait(), for every array that a product under way reads or writes.
template <int kCount>
__device__ inline void pin(float (&c)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(c[i])::"memory");
}
template <int kCount>
__device__ inline void pin(unsigned (&a)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(a[i])::"memory");
}

// The left operand over columns 16 k … 16 k + 15 of accumulators.
template <class T, int kCount>
__device__ inline void left_of(unsigned (&a)[4], const float (&c)[kCount], int k) {
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = pack<T>(c[8 * k + 2 * i], c[8 * k + 2 * i + 1]);
}

#define TESSERA_LIST_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define TESSERA_LIST_32 \
  TESSERA_LIST_16 ",%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define TESSERA_LIST_48 \
  TESSERA_LIST_32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47"
#define TESSERA_LIST_64 \
  TESSERA_LIST_48 ",%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define TESSERA_LIST_128                                                                     \
  TESSERA_LIST_64                                                                            \
  ",%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85" \
  ",%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105"   \
  ",%106,%107,%108,%109,%110,%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122"    \
  ",%123,%124,%125,%126,%127"
#define TESSERA_FLOATS_4(i) "+f"(c[i]), "+f"(c[i + 1]), "+f"(c[i + 2]), "+f"(c[i + 3])
#define TESSERA_FLOATS_16(i) \
  TESSERA_FLOATS_4(i), TESSERA_FLOATS_4(i + 4), TESSERA_FLOATS_4(i + 8), TESSERA_FLOATS_4(i + 12)
#define TESSERA_FLOATS_32(i) TESSERA_FLOATS_16(i), TESSERA_FLOATS_16(i + 16)
#define TESSERA_FLOATS_48(i) TESSERA_FLOATS_32(i), TESSERA_FLOATS_16(i + 32)
#define TESSERA_FLOATS_64(i) TESSERA_FLOATS_32(i), TESSERA_FLOATS_32(i + 32)
#define TESSERA_FLOATS_128(i) TESSERA_FLOATS_64(i), TESSERA_FLOATS_64(i + 64)

// COUNT accumulators; then the numbers of the operands that follow them.
#define TESSERA_PRODUCT_SHARED(N, HALF, COUNT, A, B, KEEP, TA, TB)                                \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, " KEEP ", 0; wgmma.mma_async.sync.aligned.m64n" #N \
               "k16.f32." HALF "." HALF " {" TESSERA_LIST_##COUNT "}, " A ", " B ", p, 1, 1, " TA \
                                                                  ", " TB "; }"                   \
               : TESSERA_FLOATS_##COUNT(0)                                                        \
               : "l"(a), "l"(b), "r"(keep), "n"(kTransA), "n"(kTransB))
#define TESSERA_PRODUCT_REGISTERS(N, HALF, COUNT, A, B, KEEP, TB)                                 \
  asm volatile("{ .reg .pred p; setp.ne.b32 p, " KEEP ", 0; wgmma.mma_async.sync.aligned.m64n" #N \
               "k16.f32." HALF "." HALF " {" TESSERA_LIST_##COUNT "}, " A ", " B ", p, 1, 1, " TB \
                                                                  "; }"                           \
               : TESSERA_FLOATS_##COUNT(0)                                                        \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(kTransB))

// c = a · b, or c += a · b if `keep`: 64 × 2·kCount from 16 columns of a and rows of b.
template <class T, int kTransA, int kTransB, int kCount>
__device__ inline void product(float (&c)[kCount], uint64_t a, uint64_t b, int keep) {
  constexpr bool kBrain = std::is_same_v<T, bfloat16>;
  static_assert(kCount == 16 || kCount == 32 || kCount == 48 || kCount == 64 || kCount == 128);
  if constexpr (kCount == 16 && kBrain) {
    TESSERA_PRODUCT_SHARED(32, "bf16", 16, "%16", "%17", "%18", "%19", "%20");
  } else if constexpr (kCount == 16) {
    TESSERA_PRODUCT_SHARED(32, "f16", 16, "%16", "%17", "%18", "%19", "%20");
  } else if constexpr (kCount == 32 && kBrain) {
    TESSERA_PRODUCT_SHARED(64, "bf16", 32, "%32", "%33", "%34", "%35", "%36");
  } else if constexpr (kCount == 32) {
    TESSERA_PRODUCT_SHARED(64, "f16", 32, "%32", "%33", "%34", "%35", "%36");
  } else if constexpr (kCount == 48 && kBrain) {
    TESSERA_PRODUCT_SHARED(96, "bf16", 48, "%48", "%49", "%50", "%51", "%52");
  } else if constexpr (kCount == 48) {
    TESSERA_PRODUCT_SHARED(96, "f16", 48, "%48", "%49", "%50", "%51", "%52");
  } else if constexpr (kCount == 64 && kBrain) {
    TESSERA_PRODUCT_SHARED(128, "bf16", 64, "%64", "%65", "%66", "%67", "%68");
  } else if constexpr (kCount == 64) {
    TESSERA_PRODUCT_SHARED(128, "f16", 64, "%64", "%65", "%66", "%67", "%68");
  } else if constexpr (kBrain) {
    TESSERA_PRODUCT_SHARED(256, "bf16", 128, "%128", "%129", "%130", "%131", "%132");
  } else {
    TESSERA_PRODUCT_SHARED(256, "f16", 128, "%128", "%129", "%130", "%131", "%132");
  }
}

// The same with 64 × 16 of the left operand in registers.
template <class T, int kTransB, int kCount>
__device__ inline void product(float (&c)[kCount], const unsigned (&a)[4], uint64_t b, int keep) {
  constexpr bool kBrain = std::is_same_v<T, bfloat16>;
  static_assert(kCount == 16 || kCount == 32 || kCount == 48 || kCount == 64 || kCount == 128);
  if constexpr (kCount == 16 && kBrain) {
    TESSERA_PRODUCT_REGISTERS(32, "bf16", 16, "{%16,%17,%18,%19}", "%20", "%21", "%22");
  } else if constexpr (kCount == 16) {
    TESSERA_PRODUCT_REGISTERS(32, "f16", 16, "{%16,%17,%18,%19}", "%20", "%21", "%22");
  } else if constexpr (kCount == 32 && kBrain) {
    TESSERA_PRODUCT_REGISTERS(64, "bf16", 32, "{%32,%33,%34,%35}", "%36", "%37", "%38");
  } else if constexpr (kCount == 32) {
    TESSERA_PRODUCT_REGISTERS(64, "f16", 32, "{%32,%33,%34,%35}", "%36", "%37", "%38");
  } else if constexpr (kCount == 48 && kBrain) {
    TESSERA_PRODUCT_REGISTERS(96, "bf16", 48, "{%48,%49,%50,%51}", "%52", "%53", "%54");
  } else if constexpr (kCount == 48) {
    TESSERA_PRODUCT_REGISTERS(96, "f16", 48, "{%48,%49,%50,%51}", "%52", "%53", "%54");
  } else if constexpr (kCount == 64 && kBrain) {
    TESSERA_PRODUCT_REGISTERS(128, "bf16", 64, "{%64,%65,%66,%67}", "%68", "%69", "%70");
  } else if constexpr (kCount == 64) {
    TESSERA_PRODUCT_REGISTERS(128, "f16", 64, "{%64,%65,%66,%67}", "%68", "%69", "%70");
  } else if constexpr (kBrain) {
    TESSERA_PRODUCT_REGISTERS(256, "bf16", 128, "{%128,%129,%130,%131}", "%132", "%133", "%134");
  } else {
    TESSERA_PRODUCT_REGISTERS(256, "f16", 128, "{%128,%129,%130,%131}", "%132", "%133", "%134");
  }
}

#undef TESSERA_LIST_16
#undef TESSERA_LIST_32
#undef TESSERA_LIST_48
#undef TESSERA_LIST_64
#undef TESSERA_LIST_128
#undef TESSERA_FLOATS_4
#undef TESSERA_FLOATS_16
#undef TESSERA_FLOATS_32
#undef TESSERA_FLOATS_48
#undef TESSERA_FLOATS_64
#undef TESSERA_FLOATS_128
#undef TESSERA_PRODUCT_SHARED
#undef TESSERA_PRODUCT_REGISTERS

}  // namespace tessera::cuda
