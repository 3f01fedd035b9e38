#include "tessera/train/tensorboard.h"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <iterator>
#include <vector>

using namespace tessera;
namespace fs = std::filesystem;

namespace {

// The records of an events file, checked for whole lengths.
std::vector<std::string> records(const fs::path& file) {
  std::ifstream in(file, std::ios::binary);
  const std::string all((std::istreambuf_iterator<char>(in)), {});
  std::vector<std::string> list;
  for (size_t at = 0; at < all.size();) {
    uint64_t length = 0;
    REQUIRE(at + 12 <= all.size());
    std::memcpy(&length, all.data() + at, 8);
    REQUIRE(at + 16 + length <= all.size());
    list.push_back(all.substr(at + 12, length));
    at += 16 + length;
  }
  return list;
}

}  // namespace

TEST_CASE("an events file holds whole records: the version first, then one scalar each") {
  const fs::path folder = fs::temp_directory_path() / ("tessera-tb-" + std::to_string(::getpid()));
  fs::remove_all(folder);
  fs::create_directories(folder);
  {
    TensorBoardWriter writer(folder);
    writer.scalar("val_loss", 0.5, 300);
  }
  {
    TensorBoardWriter resumed(folder);  // goes on in the same file, without a second version
    resumed.scalar("val_loss", 0.25, 301);
  }
  const auto list = records(folder / "events.out.tfevents.0.tessera");
  REQUIRE(list.size() == 3);
  CHECK(list[0].find("brain.Event:2") != std::string::npos);
  CHECK(list[1].find("val_loss") != std::string::npos);
  CHECK(list[1].find(std::string("\x10\xac\x02", 3)) != std::string::npos);  // step 300, a varint
  CHECK(list[1].ends_with(std::string("\x00\x00\x00\x3f", 4)));              // 0.5f
  // The checksum of a length of 24 bytes, as TensorFlow's own writer gives it, guards the format.
  std::ifstream in(folder / "events.out.tfevents.0.tessera", std::ios::binary);
  std::string head(12, '\0');
  in.read(head.data(), 12);
  CHECK(head.substr(0, 8) == std::string("\x18\0\0\0\0\0\0\0", 8));
  CHECK(head.substr(8) == std::string("\xa3\x7f\x4b\x22", 4));
  fs::remove_all(folder);
}
