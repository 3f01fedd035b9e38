// Gzip (RFC 1952).
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace tessera {

// The bytes of a file, unpacked when it begins with gzip's two magic bytes.
std::string read_maybe_gzip(const std::filesystem::path& path);

// Unpacks one gzip member: header fields, size and CRC-32 are checked, and the size that
// the trailer promises must be possible for the compressed size. `name` begins every error.
std::string gunzip(std::string_view bytes, const std::string& name);

uint32_t crc32(std::string_view bytes);

}  // namespace tessera
