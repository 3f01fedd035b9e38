// Safetensors files: a 64-bit little-endian header length, a JSON header
//
//   {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, "__metadata__": {…}}
//
// and the row-major little-endian data, to which the offsets are relative. Source: the format
// description of github.com/huggingface/safetensors.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tessera/core/file.h"
#include "tessera/core/tensor.h"

namespace tessera {

struct SafetensorsInfo {
  std::string name;
  std::string dtype;  // as the file says: "F32", "BF16", "I64", …
  Shape shape;
  int64_t begin = 0;  // byte range in the file
  int64_t end = 0;
};

// Reads lazily: opening checks the whole header against the size of the file, get() touches only
// the bytes of its tensor. Errors are one line, `FILE: byte OFFSET: tensor "x": what is wrong`.
class SafetensorsFile {
 public:
  static SafetensorsFile open(const std::string& path);
  // From memory that outlives the result; `name` stands for the file in errors.
  static SafetensorsFile parse(std::span<const std::byte> bytes, std::string name);

  std::vector<std::string> names() const;  // in the order of their data
  bool contains(std::string_view name) const;
  const SafetensorsInfo& info(std::string_view name) const;  // throws for an unknown name
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

  // A view of the mapped file when the data is aligned to its element size, else a copy. In-place
  // changes stay in this process. Throws for element types that tessera lacks (I16, F8_E4M3, …).
  Tensor get(std::string_view name) const;

 private:
  std::string name_;
  std::span<const std::byte> bytes_;
  std::shared_ptr<MappedFile> file_;  // null for parse()
  std::vector<SafetensorsInfo> infos_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string> metadata_;
};

// Atomically (see write_file_atomic). The data starts at a multiple of 64 bytes; wider element
// types come first, otherwise the order is kept, so every tensor is aligned. Equal arguments give
// equal bytes. Any strides; throws for names that are repeated, not UTF-8 or "__metadata__".
void write_safetensors(const std::string& path,
                       const std::vector<std::pair<std::string, Tensor>>& tensors,
                       const std::map<std::string, std::string>& metadata = {});

}  // namespace tessera
