// Score functors: what becomes of a scaled product s = scale · ⟨q, k⟩ before the softmax.
//
// A score functor is a pointwise functor (autograd/pointwise.h) of s and of features that come from
// where the score stands: first entries of tables, at an index that it computes itself, then plain
// numbers. It is differentiated by dual numbers, with respect to s and to the tables.
//
//   struct Alibi {                                    // s − slope_h · (distance)
//     static constexpr std::string_view name = "alibi";
//     static constexpr int tables = 1, numbers = 1;
//     Shape table_shape(int, const ScoreSizes& sizes) const { return {sizes.heads}; }
//     TESSERA_HD int64_t index(int, const ScorePlace& at) const { return at.head; }
//     TESSERA_HD double number(int, const ScorePlace& at) const { return at.distance(); }
//     bool differs(ScoreAxis axis) const { return axis == ScoreAxis::head; }
//     template <class T> TESSERA_HD T operator()(T s, T slope, T distance) const {
//       return s - slope * distance;
//     }
//   };
//   Score alibi(const Tensor& slopes) { return make_score(Alibi{}, {slopes}); }
//
// `table_shape` is the shape that a table must have for its indices to lie in it: engines refuse
// others. An index of −1 reads 0 and gets no gradient. `differs`, which may be left out, says along
// which axes other scores read other entries of all tables: that lets more of the device add up
// their gradients. Functors are asked for visible entries only. A value of −inf hides an entry.
// make_score is in make_score.h; the functors that exist are in scores.h.
#pragma once

#include <functional>
#include <memory>

#include "tessera/attention/engines/score_functor.h"
#include "tessera/autograd/ops/arithmetic.h"
#include "tessera/autograd/ops/indexing.h"
#include "tessera/autograd/ops/view.h"
#include "tessera/core/create.h"

namespace tessera {

struct TileLaunch;  // tile_block.h
namespace lists {
struct PairScores;
}

// A row of scores: one query, some keys.
struct ScoreRow {
  ScorePlace at;                  // its key is not set
  const int32_t* keys = nullptr;  // of each entry; their positions:
  const int32_t* key_positions = nullptr;
  const uint8_t* visible = nullptr;  // entries that count; null: all
  int64_t count = 0;

  ScorePlace place(int64_t j) const {
    ScorePlace p = at;
    p.key = keys[j];
    p.key_position = key_positions[j];
    return p;
  }
  bool counts(int64_t j) const { return visible == nullptr || visible[j] != 0; }
};

// A functor as engines see it: kernels for rows on the CPU, and the function on whole tensors.
struct ScoreKernels {
  std::string_view name;
  const void* functor = nullptr;
  int tables = 0;
  // scores ← f(scores)
  void (*forward_f32)(const void*, const ScoreRow&, const float* const* tables, float*) = nullptr;
  void (*forward_f64)(const void*, const ScoreRow&, const double* const* tables, double*) = nullptr;
  // gradients with respect to f → with respect to scores; those of tables are added.
  void (*backward_f32)(const void*, const ScoreRow&, const float* const* tables,
                       const float* scores, float* gradients,
                       float* const* table_gradients) = nullptr;
  void (*backward_f64)(const void*, const ScoreRow&, const double* const* tables,
                       const double* scores, double* gradients,
                       double* const* table_gradients) = nullptr;
  // scores (B, H, N, M), tables, and the place of every entry, by plain ops.
  using Places = std::function<ScorePlace(int64_t b, int64_t h, int64_t i, int64_t j)>;
  Tensor (*definition)(const void*, const Tensor& scores, const TensorList& tables,
                       const Places& places) = nullptr;
  Shape (*table_shape)(const void*, int table, const ScoreSizes&) = nullptr;
  bool differs[4] = {};  // along each ScoreAxis
  // On CUDA: by tiles, and on the pairs of lists (gather_scores.h).
  void (*launch)(const void*, const TileLaunch&) = nullptr;
  void (*launch_pairs)(const void*, const lists::PairScores&, bool backward) = nullptr;
};

// A functor with its tables; the identity by default.
class Score {
 public:
  Score() = default;
  Score(std::shared_ptr<const ScoreKernels> kernels, TensorList tables)
      : kernels_(std::move(kernels)), tables_(std::move(tables)) {}

  bool is_identity() const { return kernels_ == nullptr; }
  std::string_view name() const { return is_identity() ? "identity" : kernels_->name; }
  const ScoreKernels& kernels() const { return *kernels_; }
  const TensorList& tables() const { return tables_; }
  Score with(TensorList tables) const { return {kernels_, std::move(tables)}; }

 private:
  std::shared_ptr<const ScoreKernels> kernels_;
  TensorList tables_;
};

}  // namespace tessera
