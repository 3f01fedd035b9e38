// IDX, the format of MNIST: big-endian magic 0x000008RR (u8, rank RR), RR sizes of four bytes each,
// then the bytes, row-major. Gzip-compressed files are unpacked.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "tessera/core/tensor.h"

namespace tessera {

// A u8 tensor of rank 1 … 4. Magic, sizes, their product and the file's length are checked before
// anything is allocated; an error reads "FILE: byte N: …".
Tensor read_idx(const std::filesystem::path& path);
Tensor parse_idx(std::string_view bytes, const std::string& name);

}  // namespace tessera
