// Files: read-only maps, whole reads, and writes that happen fully or not at all. Every Error names
// the file and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace tessera {

// A file mapped into memory. The pages are private to the process: writing to them changes a copy,
// never the file. The file must not be cut short while it is mapped; replacing it is fine.
class MappedFile {
 public:
  static std::shared_ptr<MappedFile> open(const std::string& path);  // throws for a directory
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::byte* data() const { return data_; }  // page-aligned; null for an empty file
  int64_t size() const { return size_; }
  std::span<const std::byte> bytes() const { return {data_, static_cast<size_t>(size_)}; }

 private:
  MappedFile(std::string path, std::byte* data, int64_t size)
      : path_(std::move(path)), data_(data), size_(size) {}
  std::string path_;
  std::byte* data_ = nullptr;
  int64_t size_ = 0;
};

std::string read_file(const std::string& path);

// Writes to a temporary file beside `path` and renames it when everything is on the disk; when
// anything fails, the temporary file is removed and what was at `path` is untouched.
using FileSink = std::function<void(std::span<const std::byte>)>;
void write_file_atomic(const std::string& path, const std::function<void(const FileSink&)>& body);
void write_file_atomic(const std::string& path, std::string_view content);

}  // namespace tessera
