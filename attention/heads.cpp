#include "tessera/attention/heads.h"

#include "tessera/autograd/ops/view.h"

namespace tessera {

int64_t head_dim_of(std::string_view name, const Geometry& g) {
  if (g.head_dim > 0) return g.head_dim;
  check(g.width % g.heads == 0, "{}: width {} is not a multiple of {} heads", name, g.width,
        g.heads);
  return g.width / g.heads;
}

void require_grid_alone(std::string_view name, const Geometry& g) {
  check(g.grid_height > 0 && g.grid_width > 0 && g.prefix == 0,
        "{}: wants the patches of a grid alone, but got {} x {} patches after {} tokens; let the "
        "class token join later (model.class_token_layer)",
        name, g.grid_height, g.grid_width, g.prefix);
}

Tensor split_heads(const Tensor& x, int64_t heads) {
  return transpose(reshape(x, {x.size(0), x.size(1), heads, x.size(2) / heads}), 1, 2);
}

Tensor merge_heads(const Tensor& x) {
  return reshape(transpose(x, 1, 2), {x.size(0), x.size(2), x.size(1) * x.size(3)});
}

}  // namespace tessera
