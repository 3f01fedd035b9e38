#include "tessera/data/idx.h"

#include <doctest/doctest.h>

#include "support.h"
#include "tessera/core/file.h"
#include "tessera/core/random.h"
#include "tessera/data/gzip.h"

using namespace tessera;

namespace {

std::string idx_bytes(std::initializer_list<uint32_t> sizes, const std::string& content) {
  std::string bytes{0, 0, 8, static_cast<char>(sizes.size())};
  for (uint32_t size : sizes) {
    for (int shift = 24; shift >= 0; shift -= 8) bytes.push_back(static_cast<char>(size >> shift));
  }
  return bytes + content;
}

}  // namespace

TEST_CASE("IDX bytes become a tensor of their shape") {
  const Tensor x = parse_idx(idx_bytes({2, 1, 3}, "abcdef"), "x");
  CHECK(x.shape() == Shape{2, 1, 3});
  CHECK(x.to_vector<uint8_t>() == std::vector<uint8_t>{'a', 'b', 'c', 'd', 'e', 'f'});
}

TEST_CASE("a broken IDX file is refused with the byte that is wrong") {
  const auto refused = [](const std::string& bytes, const char* why) {
    CHECK_THROWS_WITH_AS(parse_idx(bytes, "x.idx"), doctest::Contains(why), Error);
  };
  refused("", "x.idx: byte 0: IDX file is cut short");
  refused("PNG!", "x.idx: byte 0: magic 0x504e4721 is not IDX");
  refused(std::string("\0\0\x0d\1\0\0\0\1\0\0\0\0", 12), "x.idx: byte 2: IDX type 0x0d");
  refused(std::string("\0\0\x08\0", 4), "x.idx: byte 3: rank 0");
  refused(std::string("\0\0\x08\2\0\0\0\1", 8), "x.idx: byte 8: IDX file is cut short");
  refused(idx_bytes({0}, ""), "x.idx: byte 4: size 0 is zero");
  refused(idx_bytes({2, 3}, "abcde"), "x.idx: byte 8: sizes promise more");
  refused(idx_bytes({2, 3}, "abcdefg"), "x.idx: byte 12: sizes (2, 3) want 6 bytes");
  refused(idx_bytes({0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF}, "a"), "promise more");
}

TEST_CASE("a mutated IDX file is read or refused, never a crash") {
  const std::string good = idx_bytes({3, 4, 5}, std::string(60, 'q'));
  int refused = 0;
  for (uint64_t i = 0; i < 2000; ++i) {
    const std::string bad = mutate(good, i);
    try {
      const Tensor x = parse_idx(bad, "x.idx");
      CHECK(x.numel() <= static_cast<int64_t>(bad.size()));
    } catch (const Error& e) {
      CHECK(std::string(e.what()).starts_with("x.idx: byte "));
      ++refused;
    }
  }
  CHECK(refused > 500);
}

TEST_CASE("MNIST is read as it is published") {
  const auto folder = data_folder("mnist");
  if (!folder) return;
  const Tensor images = read_idx(*folder / "train-images-idx3-ubyte.gz");
  const Tensor labels = read_idx(*folder / "train-labels-idx1-ubyte.gz");
  CHECK(images.shape() == Shape{60000, 28, 28});
  CHECK(labels.shape() == Shape{60000});
  CHECK(std::vector<uint8_t>(labels.data<uint8_t>(), labels.data<uint8_t>() + 5) ==
        std::vector<uint8_t>{5, 0, 4, 1, 9});
  CHECK(read_idx(*folder / "t10k-images-idx3-ubyte.gz").shape() == Shape{10000, 28, 28});
}

TEST_CASE("a mutated gzip file is unpacked to its checksum or refused") {
  const auto folder = data_folder("mnist");
  if (!folder) return;
  const std::string good = read_file((*folder / "t10k-labels-idx1-ubyte.gz").string());
  CHECK(gunzip(good, "x.gz").size() == 10008);
  int refused = 0;
  for (uint64_t i = 0; i < 700; ++i) {
    const std::string bad = mutate(good, i);
    try {
      const std::string content = gunzip(bad, "x.gz");
      CHECK(content.size() == 10008);
    } catch (const Error& e) {
      CHECK(std::string(e.what()).starts_with("x.gz: byte "));
      ++refused;
    }
  }
  CHECK(refused > 350);
}

TEST_CASE("gzip promises that cannot be true are refused before memory is taken") {
  std::string bytes("\x1F\x8B\x08\0\0\0\0\0\0\3", 10);
  bytes += std::string(8, '\1') + std::string(4, '\0') + std::string(4, '\x7F');
  CHECK_THROWS_WITH_AS(gunzip(bytes, "x.gz"), doctest::Contains("gzip promises 2139062143 bytes"),
                       Error);
  CHECK_THROWS_WITH_AS(gunzip("\x1F\x8B", "x.gz"), doctest::Contains("byte 2: gzip file is cut"),
                       Error);
}

TEST_CASE("CRC-32 has its standard check value") {
  CHECK(crc32("123456789") == 0xCBF43926u);
}
