// How text is cut before byte-pair encoding: merges never cross a cut. The rules are those of
// published tokenizers, written as scanners of code points with Unicode's categories.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace tessera {

enum class PieceRule {
  whole,   // no cuts (SentencePiece models)
  gpt2,    // 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
  llama3,  // (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|
           //  ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
  qwen2,   // as llama3 with single digits: \p{N}
};
std::string to_string(PieceRule rule);
PieceRule piece_rule_from_name(const std::string& name);  // throws Error naming the valid ones

// The end of the piece that begins at text[at], at < text.size(). A byte of invalid UTF-8 is taken
// for U+FFFD: neither letter, number nor space.
size_t piece_end(std::string_view text, size_t at, PieceRule rule);

// Whether every rule except `whole` ends a piece before text[at], at > 0, whatever follows the
// text.
bool always_cut(std::string_view text, size_t at);

// fn(piece) for every piece; together they are the text.
template <class Fn>
void for_each_piece(std::string_view text, PieceRule rule, const Fn& fn) {
  for (size_t at = 0; at < text.size();) {
    const size_t end = piece_end(text, at, rule);
    fn(text.substr(at, end - at));
    at = end;
  }
}

}  // namespace tessera
