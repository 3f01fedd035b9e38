#include "tessera/data/idx.h"

#include <cstring>

#include "tessera/core/create.h"
#include "tessera/data/gzip.h"

namespace tessera {

namespace {

constexpr uint32_t kUnsignedBytes = 0x08;

uint32_t big_endian(std::string_view bytes, size_t at) {
  uint32_t value = 0;
  for (size_t i = 0; i < 4; ++i) value = (value << 8) | static_cast<unsigned char>(bytes[at + i]);
  return value;
}

}  // namespace

Tensor read_idx(const std::filesystem::path& path) {
  return parse_idx(read_maybe_gzip(path), path.string());
}

Tensor parse_idx(std::string_view bytes, const std::string& name) {
  check(bytes.size() >= 4, "{}: byte {}: IDX file is cut short in its magic", name, bytes.size());
  const uint32_t magic = big_endian(bytes, 0);
  const uint32_t rank = magic & 0xFF;
  check(magic >> 16 == 0, "{}: byte 0: magic 0x{:08x} is not IDX", name, magic);
  check(((magic >> 8) & 0xFF) == kUnsignedBytes,
        "{}: byte 2: IDX type 0x{:02x} is not supported (want 0x08, unsigned bytes)", name,
        (magic >> 8) & 0xFF);
  check(rank >= 1 && rank <= 4, "{}: byte 3: rank {} is outside 1 … 4", name, rank);
  const size_t header = 4 + 4 * rank;
  check(bytes.size() >= header, "{}: byte {}: IDX file is cut short in its sizes", name,
        bytes.size());
  const uint64_t available = bytes.size() - header;
  Shape shape;
  uint64_t count = 1;
  for (size_t i = 0; i < rank; ++i) {
    const uint32_t size = big_endian(bytes, 4 + 4 * i);
    // Every size is positive, so a partial product beyond the data is final; no overflow: both
    // factors are below 2^32 while this holds for `available`.
    check(size > 0, "{}: byte {}: size {} is zero", name, 4 + 4 * i, i);
    check(count <= available / size,
          "{}: byte {}: sizes promise more than the {} bytes that follow", name, 4 + 4 * i,
          available);
    count *= size;
    shape.push_back(size);
  }
  check(count == available, "{}: byte {}: sizes {} want {} bytes, the file has {}", name, header,
        shape, count, available);
  const Tensor out = empty(shape, {DType::u8, {}});
  if (count > 0) std::memcpy(out.raw_data(), bytes.data() + header, count);
  return out;
}

}  // namespace tessera
