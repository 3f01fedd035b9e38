#include "tessera/core/file.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>

#include "tessera/core/error.h"
#include "tessera/tests/core/temporary_folder.h"

using namespace tessera;
using tessera_tests::TemporaryFolder;

TEST_CASE("a file that was written reads back and maps") {
  const TemporaryFolder folder;
  for (size_t size : {0u, 1u, 4096u, 100'000u}) {
    std::string content(size, 'x');
    for (size_t i = 0; i < size; ++i) content[i] = static_cast<char>(i * 7);
    const std::string path = folder / "a.bin";
    write_file_atomic(path, content);
    CHECK(read_file(path) == content);
    const auto mapped = MappedFile::open(path);
    CHECK(mapped->size() == static_cast<int64_t>(size));
    const auto bytes = mapped->bytes();
    CHECK(std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size()) == content);
  }
  CHECK(folder.files() == 1);
}

TEST_CASE("writing to mapped memory leaves the file alone") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_file_atomic(path, "abc");
  const auto mapped = MappedFile::open(path);
  mapped->data()[0] = std::byte{'z'};
  CHECK(read_file(path) == "abc");
}

TEST_CASE("a map outlives the replacement of its file") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_file_atomic(path, "old");
  const auto mapped = MappedFile::open(path);
  write_file_atomic(path, "new content");
  CHECK(std::string(reinterpret_cast<const char*>(mapped->data()), 3) == "old");
  CHECK(read_file(path) == "new content");
}

TEST_CASE("a write that fails leaves the old file and no temporary one") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.bin";
  write_file_atomic(path, "old");
  CHECK_THROWS_WITH_AS(write_file_atomic(path,
                                         [](const FileSink& sink) {
                                           const std::byte half[3] = {};
                                           sink(half);
                                           fail("body: gave up");
                                         }),
                       "body: gave up", Error);
  CHECK(read_file(path) == "old");
  CHECK(folder.files() == 1);

  std::filesystem::create_directory(folder / "taken");
  std::filesystem::create_directory(folder / "taken/inside");
  CHECK_THROWS_WITH_AS(write_file_atomic(folder / "taken", "x"),
                       doctest::Contains("taken: cannot be replaced: "), Error);
  CHECK(folder.files() == 2);
}

TEST_CASE("what cannot be read is an error that names the file and the reason") {
  const TemporaryFolder folder;
  const std::string missing = folder / "missing";
  CHECK_THROWS_WITH_AS(read_file(missing),
                       (missing + ": cannot be opened: No such file or directory").c_str(), Error);
  CHECK_THROWS_WITH_AS(MappedFile::open(missing), doctest::Contains("No such file"), Error);
  CHECK_THROWS_WITH_AS(read_file(folder.path()), doctest::Contains("is a directory"), Error);
  CHECK_THROWS_WITH_AS(MappedFile::open(folder.path()), doctest::Contains("is a directory"), Error);
  CHECK_THROWS_WITH_AS(write_file_atomic(folder / "no/such/folder", "x"),
                       doctest::Contains("cannot be created: No such file"), Error);
}

TEST_CASE("files without a size, as the system's own, are read to their end") {
  CHECK(read_file("/proc/self/status").size() > 100);
}
