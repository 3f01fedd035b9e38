#include "tessera/train/tensorboard.h"

#include <array>
#include <bit>
#include <chrono>
#include <cstring>

#include "tessera/core/error.h"

namespace tessera {
namespace {

// CRC-32C (Castagnoli), reflected polynomial 0x82f63b78.
uint32_t crc32c(std::string_view bytes) {
  static const auto table = [] {
    std::array<uint32_t, 256> t{};
    for (uint32_t i = 0; i < 256; ++i) {
      uint32_t c = i;
      for (int bit = 0; bit < 8; ++bit) c = (c & 1) != 0 ? (c >> 1) ^ 0x82f63b78u : c >> 1;
      t[i] = c;
    }
    return t;
  }();
  uint32_t crc = ~0u;
  for (char byte : bytes) crc = table[(crc ^ static_cast<uint8_t>(byte)) & 0xff] ^ (crc >> 8);
  return ~crc;
}

uint32_t masked(uint32_t crc) {
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

template <class T>
std::string raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

// Protocol-buffer fields: varint (0), 64-bit (1), bytes (2), 32-bit (5).
std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7) bytes += static_cast<char>((value & 127) | 128);
  return bytes + static_cast<char>(value);
}
std::string key(int field, int type) {
  return varint(static_cast<uint64_t>(field << 3 | type));
}
std::string bytes_field(int field, std::string_view value) {
  return key(field, 2) + varint(value.size()) + std::string(value);
}

double now() {
  const auto time = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration<double>(time).count();
}

}  // namespace

TensorBoardWriter::TensorBoardWriter(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "events.out.tfevents.0.tessera";
  const bool fresh = !std::filesystem::exists(path);
  file_.open(path, std::ios::binary | std::ios::app);
  check(file_.good(), "tensorboard: cannot write {}", path.string());
  if (fresh) record(key(1, 1) + raw(now()) + bytes_field(3, "brain.Event:2"));
}

void TensorBoardWriter::scalar(std::string_view tag, double value, int64_t step) {
  const std::string entry =
      bytes_field(1, tag) + key(2, 5) + raw(static_cast<float>(value));  // Summary.Value
  record(key(1, 1) + raw(now()) + key(2, 0) + varint(static_cast<uint64_t>(step)) +
         bytes_field(5, bytes_field(1, entry)));
}

void TensorBoardWriter::flush() {
  file_.flush();
}

void TensorBoardWriter::record(const std::string& event) {
  const std::string length = raw(static_cast<uint64_t>(event.size()));
  file_ << length << raw(masked(crc32c(length))) << event << raw(masked(crc32c(event)));
}

}  // namespace tessera
