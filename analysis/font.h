// The letters of pictures: a small font of our own, 5 × 7 with descenders.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace tessera::font {

constexpr int64_t kAdvance = 6;  // columns from one letter to the next
constexpr int64_t kRows = 9;     // from the top of a capital to the end of a descender
constexpr int64_t kBase = 7;     // rows above the base line

// Whether the letter has ink at (row, column). ASCII, · × ± … – → ≤ and the line break, which is
// shown as an arrow; anything else is an empty box.
bool ink(char32_t symbol, int64_t row, int64_t column);

// The code points of UTF-8; a byte of an invalid sequence is one of its own.
std::u32string symbols(std::string_view text);

}  // namespace tessera::font
