// The samples on which `tessera gradcheck` and the tests check the layers that no config names.
#include "tessera/core/create.h"
#include "tessera/nn/check.h"
#include "tessera/nn/conv.h"
#include "tessera/nn/gru.h"
#include "tessera/nn/linear.h"
#include "tessera/nn/norm.h"

namespace tessera {
namespace {

// A row for a layer that maps one tensor to one.
template <class Layer, class... Args>
LayerInfo unary(const char* name, const char* formula, const char* source, const Shape& input,
                Args... args) {
  return {name,
          formula,
          source,
          [args...] { return std::make_unique<Layer>(args...); },
          [](Module& m, const TensorList& in) { return TensorList{static_cast<Layer&>(m)(in[0])}; },
          [input] { return TensorList{samples::normal(input)}; }};
}

const RegisterLayer linear_row{
    unary<Linear>("linear", "y = x Wᵀ + b", "", {2, 3, 4}, int64_t{4}, int64_t{5}, true)};
const RegisterLayer layer_norm_row{unary<LayerNorm>("layer_norm",
                                                    "y = (x − mean) / sqrt(var + eps) · w + b",
                                                    "Ba et al. 2016", {2, 3, 4}, int64_t{4})};
const RegisterLayer rms_norm_row{unary<RmsNorm>("rms_norm", "y = x / sqrt(mean(x²) + eps) · w",
                                                "Zhang & Sennrich 2019", {2, 3, 4}, int64_t{4})};
const RegisterLayer batch_norm_row{unary<BatchNorm>("batch_norm",
                                                    "layer norm's formula over batch and space",
                                                    "Ioffe & Szegedy 2015", {3, 2, 4}, int64_t{2})};
const RegisterLayer group_norm_row{
    unary<GroupNorm>("group_norm", "layer norm's formula over groups of channels and space",
                     "Wu & He 2018", {2, 4, 3}, int64_t{2}, int64_t{4})};
const RegisterLayer conv1d_row{unary<Conv>("conv1d", "y_o = Σ_c w_oc ⋆ x_c + b_o", "", {2, 2, 6},
                                           int64_t{2}, int64_t{3}, Shape{3})};
const RegisterLayer conv2d_row{unary<Conv>("conv2d", "y_o = Σ_c w_oc ⋆ x_c + b_o", "", {1, 2, 5, 4},
                                           int64_t{2}, int64_t{2}, Shape{3, 2})};
const RegisterLayer conv3d_row{unary<Conv>("conv3d", "y_o = Σ_c w_oc ⋆ x_c + b_o", "",
                                           {1, 1, 3, 3, 3}, int64_t{1}, int64_t{2},
                                           Shape{2, 2, 2})};
const RegisterLayer conv_transpose2d_row{
    unary<ConvTranspose>("conv_transpose2d", "the adjoint of conv2d", "", {1, 2, 3, 3}, int64_t{2},
                         int64_t{2}, Shape{2, 2})};
const RegisterLayer gru_row{
    unary<Gru>("gru", "h ← (1 − z) n + z h", "Cho et al. 2014", {2, 3, 4}, int64_t{4}, int64_t{3})};
const RegisterLayer embedding_row{
    {"embedding", "y = W[ids]", "", [] { return std::make_unique<Embedding>(5, 3, 1.0); },
     [](Module& m, const TensorList& in) { return TensorList{static_cast<Embedding&>(m)(in[0])}; },
     [] {
       return TensorList{samples::integers({2, 4}, 0, 5)};
     }}};

}  // namespace
}  // namespace tessera
