#include "tessera/data/pieces.h"

#include <utf8proc.h>

#include <array>

#include "tessera/core/error.h"
#include "tessera/data/utf8.h"

namespace tessera {
namespace {

enum class Kind : uint8_t { letter, number, space, newline, other };

// Unicode's property White_Space beyond ASCII.
bool is_wide_space(char32_t c) {
  return c == 0x85 || c == 0xA0 || c == 0x1680 || (c >= 0x2000 && c <= 0x200A) || c == 0x2028 ||
         c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

Kind wide_kind(char32_t c) {
  if (c >= kInvalidByte) return Kind::other;
  if (is_wide_space(c)) return Kind::space;
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return Kind::letter;
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_NO:
      return Kind::number;
    default:
      return Kind::other;
  }
}

constexpr std::array<Kind, 128> kAsciiKinds = [] {
  std::array<Kind, 128> kinds{};
  for (size_t c = 0; c < kinds.size(); ++c) {
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    kinds[c] = letter                            ? Kind::letter
               : c >= '0' && c <= '9'            ? Kind::number
               : c == '\n' || c == '\r'          ? Kind::newline
               : c == ' ' || (c >= 9 && c <= 13) ? Kind::space
                                                 : Kind::other;
  }
  return kinds;
}();

// Walks over code points; a kind is asked for at most once per point and place.
class Scanner {
 public:
  explicit Scanner(std::string_view text) : text_(text) {}

  struct Point {
    Kind kind = Kind::other;
    size_t end = 0;
    char32_t value = 0;
    bool there = false;  // false behind the end
    bool is_space() const { return there && (kind == Kind::space || kind == Kind::newline); }
    bool is(Kind k) const { return there && kind == k; }
    // Neither space, letter nor number.
    bool is_other() const { return there && kind == Kind::other; }
  };
  Point at(size_t i) const {
    if (i >= text_.size()) return {};
    const auto byte = static_cast<unsigned char>(text_[i]);
    if (byte < 128) return {kAsciiKinds[byte], i + 1, byte, true};
    const Utf8Symbol s = next_symbol(text_, i);
    return {wide_kind(s.value), i + static_cast<size_t>(s.length), s.value, true};
  }
  // Behind the run of points of a kind from i on, `most` of them at most.
  size_t run(size_t i, Kind kind, int most = -1) const {
    for (Point p = at(i); p.is(kind) && most != 0; p = at(i), --most) i = p.end;
    return i;
  }
  size_t run_of_others(size_t i) const {
    for (Point p = at(i); p.is_other(); p = at(i)) i = p.end;
    return i;
  }

 private:
  std::string_view text_;
};

char32_t folded(char32_t c) {
  if (c >= 'A' && c <= 'Z') return c + ('a' - 'A');
  return c == 0x17F ? U's' : c;  // the long s
}

// Behind one of 's 't 're 've 'm 'll 'd at i, or i.
size_t contraction(const Scanner& scan, size_t i, bool fold) {
  if (scan.at(i).value != U'\'') return i;
  const Scanner::Point first = scan.at(i + 1);
  if (!first.there) return i;
  const Scanner::Point second = scan.at(first.end);
  const auto letter = [&](const Scanner::Point& p) { return fold ? folded(p.value) : p.value; };
  const char32_t a = letter(first), b = second.there ? letter(second) : 0;
  if ((a == U'r' && b == U'e') || (a == U'v' && b == U'e') || (a == U'l' && b == U'l')) {
    return second.end;
  }
  return a == U's' || a == U't' || a == U'm' || a == U'd' ? first.end : i;
}

// \s+(?!\S)|\s+ at i, where a space stands: the run of spaces, less the last one if more follows.
size_t spaces(const Scanner& scan, size_t i) {
  size_t last = i;
  Scanner::Point p = scan.at(i);
  while (p.is_space()) {
    last = i;
    i = p.end;
    p = scan.at(i);
  }
  return p.there && last > 0 ? last : i;
}

size_t gpt2_end(const Scanner& scan, size_t i) {
  if (const size_t end = contraction(scan, i, false); end > i) return end;
  const size_t begin = scan.at(i).value == U' ' ? i + 1 : i;
  for (const Kind kind : {Kind::letter, Kind::number}) {
    if (const size_t end = scan.run(begin, kind); end > begin) return end;
  }
  if (const size_t end = scan.run_of_others(begin); end > begin) return end;
  const size_t end = spaces(scan, i);
  return end > i ? end : scan.at(i).end;
}

// Behind the last line break of the run of spaces at i, or i.
size_t lines(const Scanner& scan, size_t i) {
  size_t end = i;
  for (Scanner::Point p = scan.at(i); p.is_space(); p = scan.at(p.end)) {
    if (p.kind == Kind::newline) end = p.end;
  }
  return end;
}

size_t llama3_end(const Scanner& scan, size_t i, int digits) {
  if (const size_t end = contraction(scan, i, true); end > i) return end;
  const Scanner::Point p = scan.at(i);
  const bool joins = p.kind == Kind::space || p.kind == Kind::other;
  const size_t word = joins ? p.end : i;
  if (const size_t end = scan.run(word, Kind::letter); end > word) return end;
  if (const size_t end = scan.run(i, Kind::number, digits); end > i) return end;
  const size_t begin = p.value == U' ' ? i + 1 : i;
  if (const size_t end = scan.run_of_others(begin); end > begin) {
    return scan.run(end, Kind::newline);
  }
  if (const size_t end = lines(scan, i); end > i) return end;
  const size_t end = spaces(scan, i);
  return end > i ? end : p.end;
}

// The point that ends before text[at].
Scanner::Point before(std::string_view text, size_t at) {
  const Scanner scan(text);
  for (size_t begin = at - 1; at - begin <= 4; --begin) {
    const Scanner::Point p = scan.at(begin);
    if (p.end == at && (static_cast<unsigned char>(text[begin]) & 0xC0) != 0x80) return p;
    if (begin == 0) break;
  }
  return scan.at(at - 1);
}

constexpr std::string_view kNames[] = {"whole", "gpt2", "llama3", "qwen2"};

}  // namespace

std::string to_string(PieceRule rule) {
  return std::string(kNames[static_cast<size_t>(rule)]);
}

PieceRule piece_rule_from_name(const std::string& name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<PieceRule>(i);
  }
  fail("bpe: pieces \"{}\" are not known; there are whole, gpt2, llama3 and qwen2", name);
}

// Before a space that follows something else, and behind a line break between two of the like.
bool always_cut(std::string_view text, size_t at) {
  if (text[at] == ' ') return !before(text, at).is_space();
  if (text[at - 1] != '\n' || at < 2 || before(text, at - 1).is_space()) return false;
  const bool whole = static_cast<unsigned char>(text[at]) < 128 || at + 4 <= text.size();
  return whole && !Scanner(text).at(at).is_space();
}

size_t piece_end(std::string_view text, size_t at, PieceRule rule) {
  const Scanner scan(text);
  switch (rule) {
    case PieceRule::gpt2:
      return gpt2_end(scan, at);
    case PieceRule::llama3:
      return llama3_end(scan, at, 3);
    case PieceRule::qwen2:
      return llama3_end(scan, at, 1);
    case PieceRule::whole:
      break;
  }
  return text.size();
}

}  // namespace tessera
