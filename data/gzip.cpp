#include "tessera/data/gzip.h"

#include <stb_image.h>

#include <array>
#include <limits>

#include "tessera/core/error.h"
#include "tessera/core/file.h"

namespace tessera {

namespace {

constexpr size_t kTrailer = 8;          // CRC-32 and size, both little-endian
constexpr size_t kMaxExpansion = 1032;  // deflate cannot do better

uint32_t little_endian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 4; i-- > 0;) value = (value << 8) | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

// Skips a zero-terminated string of the header.
size_t skip_string(std::string_view bytes, size_t at, const std::string& name) {
  const size_t end = bytes.find('\0', at);
  check(end != std::string_view::npos, "{}: byte {}: gzip header is cut short", name, at);
  return end + 1;
}

// The offset of the deflate stream.
size_t skip_header(std::string_view bytes, const std::string& name) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(bytes[i]); };
  check(bytes.size() >= 10 + kTrailer, "{}: byte {}: gzip file is cut short", name, bytes.size());
  check(byte(0) == 0x1F && byte(1) == 0x8B, "{}: byte 0: no gzip file", name);
  check(byte(2) == 8, "{}: byte 2: gzip method {} is unknown (want 8, deflate)", name, byte(2));
  const unsigned flags = byte(3);
  check((flags & 0xE0) == 0, "{}: byte 3: gzip flags 0x{:02X} are unknown", name, flags);
  size_t at = 10;
  if (flags & 4) at += 2u + byte(10) + 256u * byte(11);
  if (flags & 8) at = skip_string(bytes, at, name);
  if (flags & 16) at = skip_string(bytes, at, name);
  if (flags & 2) at += 2;
  check(at + kTrailer <= bytes.size(), "{}: byte {}: gzip header is cut short", name, bytes.size());
  return at;
}

}  // namespace

std::string read_maybe_gzip(const std::filesystem::path& path) {
  std::string bytes = read_file(path.string());
  return bytes.starts_with("\x1F\x8B") ? gunzip(bytes, path.string()) : bytes;
}

std::string gunzip(std::string_view bytes, const std::string& name) {
  const size_t start = skip_header(bytes, name);
  const size_t trailer = bytes.size() - kTrailer;
  const size_t size = little_endian(bytes, trailer + 4);
  const size_t packed = trailer - start;
  constexpr size_t limit = std::numeric_limits<int>::max();
  check(size <= packed * kMaxExpansion && size <= limit && bytes.size() <= limit,
        "{}: byte {}: gzip promises {} bytes from {}", name, trailer + 4, size, packed);
  std::string out(size, '\0');
  // The decoder looks ahead of the last code, so it is given the trailer too.
  const int got =
      stbi_zlib_decode_noheader_buffer(out.data(), static_cast<int>(size), bytes.data() + start,
                                       static_cast<int>(packed + kTrailer));
  check(got >= 0 && static_cast<size_t>(got) == size,
        "{}: byte {}: the gzip stream is broken or has several members", name, start);
  const uint32_t want = little_endian(bytes, trailer);
  const uint32_t found = crc32(out);
  check(found == want, "{}: byte {}: gzip CRC-32 is {:08x}, the content has {:08x}", name, trailer,
        want, found);
  return out;
}

uint32_t crc32(std::string_view bytes) {
  static const std::array<uint32_t, 256> table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      t[i] = i;
      for (int bit = 0; bit < 8; ++bit) t[i] = (t[i] >> 1) ^ (t[i] & 1 ? 0xEDB88320u : 0u);
    }
    return t;
  }();
  uint32_t crc = 0xFFFFFFFFu;
  for (char c : bytes) crc = table[(crc ^ static_cast<unsigned char>(c)) & 0xFF] ^ (crc >> 8);
  return ~crc;
}

}  // namespace tessera
