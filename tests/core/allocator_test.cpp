#include "tessera/core/allocator.h"

#include <doctest/doctest.h>

#include <cstring>
#include <thread>
#include <vector>

#include "tessera/core/random.h"

using namespace tessera;

namespace {

struct Block {
  void* pointer;
  size_t bytes;
};

std::vector<Block> round_of_blocks(uint64_t seed) {
  Generator random(seed);
  std::vector<Block> blocks;
  for (int i = 0; i < 200; ++i) {
    const auto bytes = static_cast<size_t>(1 + random.below(int64_t{1} << (1 + i % 18)));
    blocks.push_back({allocator({}).allocate(bytes), bytes});
    std::memset(blocks.back().pointer, i, bytes);
  }
  return blocks;
}

void free_all(const std::vector<Block>& blocks) {
  for (const Block& block : blocks) allocator({}).deallocate(block.pointer, block.bytes);
}

}  // namespace

TEST_CASE("a second round of the same sizes asks the system for nothing") {
  free_all(round_of_blocks(1));
  const AllocatorStats before = allocator({}).stats();
  free_all(round_of_blocks(1));
  const AllocatorStats after = allocator({}).stats();
  CHECK(after.system_calls == before.system_calls);
  CHECK(after.reserved == before.reserved);
  CHECK(after.live == before.live);
}

TEST_CASE("more than the limit is refused, and blocks kept for reuse make room first") {
  Allocator& cpu = allocator({});
  CHECK_THROWS_WITH_AS(cpu.allocate(size_t{1} << 50), doctest::Contains("make the batch"), Error);
  const int64_t machine = cpu.limit();
  cpu.deallocate(cpu.allocate(1 << 20), 1 << 20);
  cpu.set_limit(cpu.stats().live + (3 << 20));
  void* block = nullptr;
  CHECK_NOTHROW(block = cpu.allocate(2 << 20));
  CHECK_THROWS_WITH_AS(cpu.allocate(2 << 20), doctest::Contains("memory: 2097152 bytes"), Error);
  cpu.deallocate(block, 2 << 20);
  cpu.set_limit(machine);
}

TEST_CASE("live blocks are aligned and do not overlap") {
  const auto blocks = round_of_blocks(2);
  for (size_t i = 0; i < blocks.size(); ++i) {
    CHECK(reinterpret_cast<uintptr_t>(blocks[i].pointer) % kAlignment == 0);
    const auto* bytes = static_cast<const unsigned char*>(blocks[i].pointer);
    for (size_t j = 0; j < blocks[i].bytes; ++j) REQUIRE(bytes[j] == i);
  }
  free_all(blocks);
}

TEST_CASE("a block wastes at most a quarter of what was asked for") {
  Allocator& cpu = allocator({});
  const auto taken = [&](size_t bytes) {
    const int64_t before = cpu.stats().live;
    void* pointer = cpu.allocate(bytes);
    const int64_t size = cpu.stats().live - before;
    cpu.deallocate(pointer, bytes);
    return size;
  };
  int64_t last = 0;
  for (size_t bytes = 1; bytes < 5000; ++bytes) {
    const int64_t size = taken(bytes);
    REQUIRE(size >= static_cast<int64_t>(bytes));
    REQUIRE(size >= last);
    REQUIRE(size <= std::max<int64_t>(64, static_cast<int64_t>(bytes) * 5 / 4));
    last = size;
  }
  for (size_t power = 13; power < 24; ++power) {
    for (size_t bytes : {(size_t{1} << power) - 1, size_t{1} << power, (size_t{1} << power) + 1}) {
      CHECK(taken(bytes) <= static_cast<int64_t>(bytes) * 5 / 4);
    }
  }
  cpu.release_cached();
}

TEST_CASE("statistics follow what is live, kept and given back") {
  Allocator& cpu = allocator({});
  cpu.release_cached();
  const AllocatorStats start = cpu.stats();
  CHECK(start.reserved == start.live);
  cpu.reset_peak();
  void* a = cpu.allocate(1 << 20);
  void* b = cpu.allocate(1 << 20);
  CHECK(cpu.stats().live == start.live + (2 << 20));
  CHECK(cpu.stats().system_calls == start.system_calls + 2);
  cpu.deallocate(a, 1 << 20);
  CHECK(cpu.stats().live == start.live + (1 << 20));
  CHECK(cpu.stats().peak == start.live + (2 << 20));
  CHECK(cpu.stats().reserved == start.reserved + (2 << 20));
  cpu.reset_peak();
  CHECK(cpu.stats().peak == cpu.stats().live);
  cpu.deallocate(b, 1 << 20);
  cpu.release_cached();
  CHECK(cpu.stats().reserved == start.reserved);
}

TEST_CASE("threads share the allocator") {
  const int64_t live = allocator({}).stats().live;
  std::vector<std::thread> threads;
  for (uint64_t i = 0; i < 4; ++i) {
    threads.emplace_back([i] {
      for (uint64_t round = 0; round < 20; ++round) free_all(round_of_blocks(i * 100 + round));
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(allocator({}).stats().live == live);
}

TEST_CASE("impossible requests are errors") {
  CHECK_THROWS_WITH_AS(allocator({}).allocate(size_t{1} << 62), doctest::Contains("memory: "),
                       Error);
  CHECK_THROWS_WITH_AS(allocator({Device::Kind::cuda, 99}), doctest::Contains("cuda:99"), Error);
}
