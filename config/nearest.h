// The nearest of some known names, for "did you mean …?".
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace tessera {

// Insertions, deletions, substitutions and swaps of neighbours that turn `a` into `b`, letter case
// ignored (optimal string alignment, the restricted Damerau–Levenshtein distance).
int64_t edit_distance(std::string_view a, std::string_view b);

// The candidate with the smallest edit distance, if at most a third of the letters (at least one)
// differ; the first one of equals.
std::optional<std::string> nearest(std::string_view name, std::span<const std::string> candidates);

// `; did you mean "clusters"?`, or, when no candidate is near, "".
std::string did_you_mean(std::string_view name, std::span<const std::string> candidates);

}  // namespace tessera
