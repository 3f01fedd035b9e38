#include "tessera/core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "tessera/core/error.h"

namespace tessera {
namespace {

[[noreturn]] void fail_with_reason(const std::string& path, std::string_view what) {
  fail("{}: {}: {}", path, what, std::generic_category().message(errno));
}

class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, std::string_view what)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, 0666)) {
    if (fd_ < 0) fail_with_reason(path, what);
  }
  ~Descriptor() { ::close(fd_); }
  Descriptor(const Descriptor&) = delete;
  Descriptor& operator=(const Descriptor&) = delete;
  operator int() const { return fd_; }

 private:
  int fd_;
};

int64_t size_of_file(const Descriptor& file, const std::string& path) {
  struct stat info {};
  if (::fstat(file, &info) != 0) fail_with_reason(path, "cannot be examined");
  check(!S_ISDIR(info.st_mode), "{}: is a directory, not a file", path);
  return info.st_size;
}

void write_all(int file, std::span<const std::byte> bytes, const std::string& path) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file, bytes.data(), bytes.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) fail_with_reason(path, "cannot be written");
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
}

std::string folder_of(const std::string& path) {
  const auto folder = std::filesystem::path(path).parent_path();
  return folder.empty() ? "." : folder.string();
}

// Removes the file it names unless told that it has become something else.
struct Temporary {
  std::string path;
  bool keep = false;
  ~Temporary() {
    if (!keep) ::unlink(path.c_str());
  }
};

}  // namespace

std::shared_ptr<MappedFile> MappedFile::open(const std::string& path) {
  const Descriptor file(path, O_RDONLY, "cannot be opened");
  const int64_t size = size_of_file(file, path);
  void* data = nullptr;
  if (size > 0) {  // nothing cannot be mapped
    data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_NORESERVE, file, 0);
    if (data == MAP_FAILED) fail_with_reason(path, "cannot be mapped");
  }
  return std::shared_ptr<MappedFile>(new MappedFile(path, static_cast<std::byte*>(data), size));
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(data_, static_cast<size_t>(size_));
}

std::string read_file(const std::string& path) {
  const Descriptor file(path, O_RDONLY, "cannot be opened");
  // The size is only a hint: it is 0 for pipes and the files of /proc.
  std::string content(static_cast<size_t>(size_of_file(file, path)) + 1, '\0');
  size_t used = 0;
  for (;;) {
    const ssize_t got = ::read(file, content.data() + used, content.size() - used);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail_with_reason(path, "cannot be read");
    if (got == 0) break;
    used += static_cast<size_t>(got);
    if (used == content.size()) content.resize(2 * used + 4096);
  }
  content.resize(used);
  return content;
}

void write_file_atomic(const std::string& path, const std::function<void(const FileSink&)>& body) {
  static std::atomic<int> counter{0};
  const std::string name = fmt::format("{}.{}-{}.tmp", path, ::getpid(), counter++);
  const Descriptor file(name, O_WRONLY | O_CREAT | O_EXCL, "cannot be created");
  Temporary temporary{name};
  body([&](std::span<const std::byte> bytes) { write_all(file, bytes, path); });
  if (::fsync(file) != 0) fail_with_reason(path, "cannot be written");
  if (::rename(name.c_str(), path.c_str()) != 0) fail_with_reason(path, "cannot be replaced");
  temporary.keep = true;
  // The rename itself is on the disk only when the folder is.
  const Descriptor folder(folder_of(path), O_RDONLY | O_DIRECTORY, "cannot be opened");
  if (::fsync(folder) != 0 && errno != EINVAL) fail_with_reason(path, "folder cannot be written");
}

void write_file_atomic(const std::string& path, std::string_view content) {
  write_file_atomic(path, [&](const FileSink& sink) { sink(std::as_bytes(std::span(content))); });
}

}  // namespace tessera
