// What mechanisms do with their heads, whatever they attend to.
#pragma once

#include "tessera/attention/attention.h"

namespace tessera {

// The width of a head: as the geometry says, or width / heads. Throws `name: width … is not a
// multiple of … heads`.
int64_t head_dim_of(std::string_view name, const Geometry& g);

// Throws, beginning with `name`, unless the tokens are the patches of a grid and nothing else.
void require_grid_alone(std::string_view name, const Geometry& g);

// (B, N, heads · D) as (B, heads, N, D), a view.
Tensor split_heads(const Tensor& x, int64_t heads);
// (B, heads, N, D) → (B, N, heads · D).
Tensor merge_heads(const Tensor& x);

}  // namespace tessera
