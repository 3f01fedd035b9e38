// The arithmetic of the engines, counted beside score_entries().
#pragma once

#include <cstdint>

namespace tessera::engine {

// Multiply-adds done by forward passes on the CPU since the start: D for each product of a query
// with a key and Dv for each value summed, so entries · (D + Dv).
int64_t multiply_adds();
void count_multiply_adds(int64_t entries, int64_t query_width, int64_t value_width);

}  // namespace tessera::engine
