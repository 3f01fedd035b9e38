#include "tessera/core/safetensors.h"

#include <doctest/doctest.h>

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "tessera/core/create.h"
#include "tessera/core/kernels/copy.h"
#include "tessera/core/kernels/fill.h"
#include "tessera/core/random.h"
#include "tessera/core/view.h"
#include "tessera/tests/core/temporary_folder.h"

using namespace tessera;
using tessera_tests::TemporaryFolder;

namespace {

using Named = std::vector<std::pair<std::string, Tensor>>;

Tensor filled(const Shape& shape, DType dtype, uint64_t stream) {
  const Tensor x = empty(shape);
  kernels::uniform(x, -20, 20, {1, stream});
  return kernels::cast(x, dtype);
}

Named one_of_each() {
  const Tensor mask = empty({5}, {DType::boolean, {}});
  kernels::bernoulli(mask, 0.5, {1, 9});
  const Tensor bytes = kernels::cast(arange(0, 7), DType::u8);
  return {{"mask", mask},
          {"weight", filled({3, 4}, DType::f32, 1)},
          {"half", filled({7}, DType::f16, 2)},
          {"brain", filled({2, 1, 3}, DType::bf16, 3)},
          {"wide", filled({2, 2}, DType::f64, 4)},
          {"scalar", filled({}, DType::i64, 5)},
          {"int", filled({3}, DType::i32, 6)},
          {"bytes", bytes},
          {"empty", empty({0, 4})}};
}

std::string bytes_of(const std::string& header, const std::string& data = "") {
  const uint64_t length = header.size();
  std::string bytes(8, '\0');
  std::memcpy(bytes.data(), &length, 8);
  return bytes + header + data;
}

SafetensorsFile parse(const std::string& bytes) {
  return SafetensorsFile::parse(std::as_bytes(std::span(bytes)), "x.st");
}

void refuses(const std::string& bytes, const char* message) {
  CAPTURE(bytes.substr(0, 200));
  CHECK_THROWS_WITH_AS(parse(bytes), doctest::Contains(message), Error);
}

std::string tensor_of(const std::string& dtype, const std::string& shape,
                      const std::string& offsets) {
  return R"({"a":{"dtype":)" + dtype + R"(,"shape":)" + shape + R"(,"data_offsets":)" + offsets +
         "}}";
}

void read_everything(const SafetensorsFile& file) {
  for (const std::string& name : file.names()) file.get(name);
}

std::string mutated(std::string bytes, Generator& random) {
  const auto at = [&] { return static_cast<size_t>(random.below(std::ssize(bytes))); };
  const auto header_at = [&] {
    return 8 + static_cast<size_t>(random.below(std::min<int64_t>(500, std::ssize(bytes) - 8)));
  };
  const auto byte = [&] { return static_cast<char>(random.below(256)); };
  for (int64_t edits = 1 + random.below(4); edits > 0 && bytes.size() > 16; --edits) {
    switch (random.below(6)) {
      case 0:
        bytes[at()] = byte();
        break;
      case 1:
        bytes.resize(at());
        break;
      case 2:
        bytes.insert(at(), 1, byte());
        break;
      case 3:
        bytes[header_at()] = "0123456789[]{},:\"\\-e."[random.below(20)];
        break;
      case 4:
        bytes.erase(header_at(), static_cast<size_t>(1 + random.below(5)));
        break;
      default:
        bytes[static_cast<size_t>(random.below(8))] = byte();
        break;
    }
  }
  return bytes;
}

}  // namespace

TEST_CASE("tensors of every element type come back from a file") {
  const TemporaryFolder folder;
  const std::string path = folder / "a.safetensors";
  const Named tensors = one_of_each();
  const std::map<std::string, std::string> metadata = {{"format", "pt"}, {"note", "é \"\n"}};
  write_safetensors(path, tensors, metadata);
  const SafetensorsFile file = SafetensorsFile::open(path);
  CHECK(file.metadata() == metadata);
  CHECK(file.names().size() == tensors.size());
  CHECK_FALSE(file.contains("other"));
  CHECK_FALSE(file.contains("__metadata__"));
  for (const auto& named : tensors) {
    const auto& [name, tensor] = named;
    CAPTURE(named.first);
    REQUIRE(file.contains(name));
    const Tensor read = file.get(name);
    CHECK(read.dtype() == tensor.dtype());
    CHECK(read.shape() == tensor.shape());
    CHECK(read.to_vector<double>() == tensor.to_vector<double>());
  }
  CHECK_THROWS_WITH_AS(file.get("other"), doctest::Contains("no tensor \"other\" among its 9"),
                       Error);
}

TEST_CASE("equal tensors give equal bytes, and data starts at a multiple of 64") {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", one_of_each(), {{"k", "v"}});
  write_safetensors(folder / "b", one_of_each(), {{"k", "v"}});
  CHECK(read_file(folder / "a") == read_file(folder / "b"));
  const SafetensorsFile file = SafetensorsFile::open(folder / "a");
  CHECK(file.info(file.names().front()).begin % 64 == 0);
}

TEST_CASE("a tensor is a view of the mapped file, and changing it changes no file") {
  const TemporaryFolder folder;
  const std::string path = folder / "a";
  write_safetensors(path, one_of_each());
  const std::string before = read_file(path);
  Tensor first;
  {
    const SafetensorsFile file = SafetensorsFile::open(path);
    first = file.get("weight");
    const Tensor second = file.get("weight");
    CHECK(first.raw_data() == second.raw_data());
  }
  kernels::fill(first, 3);  // the mapping outlives the SafetensorsFile
  CHECK(first.to_vector<float>() == std::vector<float>(12, 3));
  CHECK(read_file(path) == before);
}

TEST_CASE("strided tensors are written in row-major order") {
  const TemporaryFolder folder;
  const Tensor x = filled({4, 6}, DType::f32, 1);
  const Tensor views[] = {views::transpose(x, 0, 1), views::slice(x, 1, 5, -1, -2),
                          views::expand(views::slice(x, 0, 1, 2), {3, 6})};
  for (const Tensor& view : views) {
    write_safetensors(folder / "a", {{"x", view}});
    const Tensor read = SafetensorsFile::open(folder / "a").get("x");
    CHECK(read.shape() == view.shape());
    CHECK(read.to_vector<float>() == view.to_vector<float>());
  }
}

TEST_CASE("misaligned data is copied") {
  const std::string data("\x01\0\0\x80\x3f\0\0\0\x40", 9);
  const std::string bytes = bytes_of(R"({"m":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
                                     R"( "x":{"dtype":"F32","shape":[2],"data_offsets":[1,9]}}  )",
                                     data);
  const TemporaryFolder folder;
  write_file_atomic(folder / "a", bytes);
  CHECK(SafetensorsFile::open(folder / "a").get("x").to_vector<float>() ==
        std::vector<float>{1, 2});
  CHECK(parse(bytes).get("x").to_vector<float>() == std::vector<float>{1, 2});
}

TEST_CASE("names that a file cannot hold are refused before anything is written") {
  const TemporaryFolder folder;
  const Tensor x = ones({2});
  const std::string path = folder / "a";
  CHECK_THROWS_WITH_AS(write_safetensors(path, {{"x", x}, {"x", x}}),
                       doctest::Contains("two tensors are called \"x\""), Error);
  CHECK_THROWS_WITH_AS(write_safetensors(path, {{"__metadata__", x}}),
                       doctest::Contains("cannot be called"), Error);
  CHECK_THROWS_WITH_AS(write_safetensors(path, {{"\xff", x}}), doctest::Contains("not UTF-8"),
                       Error);
  CHECK_THROWS_WITH_AS(write_safetensors(path, {{"x", Tensor()}}),
                       doctest::Contains("\"x\" has no value"), Error);
  CHECK(folder.files() == 0);
  write_safetensors(path, {});
  CHECK(SafetensorsFile::open(path).names().empty());
}

TEST_CASE("a broken length or header is refused with its byte") {
  refuses("", "x.st: byte 0: 0 bytes are too few");
  refuses("1234567", "byte 0: 7 bytes are too few");
  refuses(std::string("\xff\xff\xff\xff\xff\xff\xff\xff{}"), "byte 0: header length 1844674");
  refuses(bytes_of("{}").substr(0, 9), "byte 0: header length 2 does not fit");
  refuses(bytes_of(""), "byte 8: wants the header, an object, found the end");
  refuses(bytes_of("[]"), "byte 8: wants the header, an object, found \"[]\"");
  refuses(bytes_of("{} x"), "byte 11: the header goes on");
  refuses(bytes_of("{\"a"), "a string does not end");
  refuses(bytes_of("{\"a\\"), "a string does not end");
  refuses(bytes_of("{\"\xff\":1}"), "bad UTF-8");
  refuses(bytes_of("{\"a\":1}"), "tensor \"a\": wants an object with dtype");
  refuses(bytes_of("{,}"), "wants a name");
  refuses(bytes_of(R"({"__metadata__":{"k":1}})"), "wants a string as metadata, found \"1}}\"");
  refuses(bytes_of(R"({"__metadata__":[]})"), "wants an object of strings");
  refuses(bytes_of("{}", "abc"), "byte 10: the last 3 bytes belong to no tensor");
}

TEST_CASE("a broken tensor entry is refused with its name") {
  const std::string four(4, 'x');
  const auto bad = [&](const char* dtype, const char* shape, const char* offsets,
                       const char* message) {
    refuses(bytes_of(tensor_of(dtype, shape, offsets), four), message);
  };
  bad("1", "[1]", "[0,4]", "tensor \"a\": wants a dtype");
  bad("\"F32\"", "1", "[0,4]", "wants a shape");
  bad("\"F32\"", "[-1]", "[0,4]", "wants a size (an integer, not negative), found \"-1]");
  bad("\"F32\"", "[1.0]", "[0,4]", "wants a size");
  bad("\"F32\"", "[1e0]", "[0,4]", "wants a size");
  bad("\"F32\"", "[01]", "[0,4]", "wants a size");
  bad("\"F32\"", "[99999999999999999999]", "[0,4]", "a size is too large");
  bad("\"F32\"", "[4294967296,4294967296]", "[0,4]", "has too many elements");
  bad("\"F32\"", "[4611686018427387904,4,0]", "[0,0]", "has too many elements");
  bad("\"F32\"", "[1,1,1,1,1,1,1,1,1,1,1,1,1]", "[0,4]", "more than 12 dimensions");
  bad("\"F32\"", "[2]", "[0,4]", "hold 4 bytes, but F32 of shape (2) takes 8");
  bad("\"F32\"", "[1]", "[0,8]", "are not a range in 4 bytes");
  bad("\"F32\"", "[1]", "[4,0]", "are not a range");
  bad("\"F32\"", "[1]", "[0]", "fewer than two");
  bad("\"F32\"", "[1]", "[0,4,4]", "more than two");
  bad("\"F4\"", "[7]", "[0,4]", "do not fill bytes");
  bad("\"U8\"", "[2]", "[2,4]", "byte 61: tensor \"a\": 2 bytes before its data");
  bad("\"U8\"", "[2]", "[0,2]", "the last 2 bytes belong to no tensor");
  refuses(bytes_of(R"({"a":{"dtype":"F32","shape":[1]}})", four), "a field is missing");
  refuses(bytes_of(R"({"a":{"dtype":"F32","dtype":"F32"}})", four), "\"dtype\" comes twice");
  refuses(bytes_of(R"({"a":{"colour":"F32"}})", four), "unknown field \"colour\"");
  const std::string entry = R"({"dtype":"U8","shape":[3],"data_offsets":[)";
  refuses(bytes_of("{\"a\":" + entry + "0,3]},\"a\":" + entry + "0,3]}}", "abc"),
          "\"a\" comes twice");
  refuses(bytes_of("{\"a\":" + entry + "0,3]},\"b\":" + entry + "1,4]}}", four),
          "tensor \"b\": its data overlaps");
}

TEST_CASE("element types that tessera lacks are refused only when they are asked for") {
  for (const char* dtype : {"I16", "F8_E4M3", "NOVEL"}) {
    CAPTURE(dtype);
    const std::string bytes = bytes_of(
        tensor_of('"' + std::string(dtype) + '"', dtype[0] == 'F' ? "[4]" : "[2]", "[0,4]"),
        "abcd");
    const SafetensorsFile file = parse(bytes);
    CHECK(file.info("a").dtype == dtype);
    CHECK_THROWS_WITH_AS(file.get("a"), doctest::Contains("is not supported"), Error);
  }
}

TEST_CASE("a bool that is neither 0 nor 1 is refused with its byte") {
  const std::string bytes =
      bytes_of(tensor_of("\"BOOL\"", "[3]", "[0,3]"), std::string("\0\1\2", 3));
  const auto byte = std::to_string(bytes.size() - 1);
  CHECK_THROWS_WITH_AS(parse(bytes).get("a"),
                       ("x.st: byte " + byte + ": tensor \"a\": a bool is 2, not 0 or 1").c_str(),
                       Error);
}

TEST_CASE("errors about hostile names stay on one short line") {
  const std::string name(100'000, 'n');
  try {
    parse(bytes_of("{\"a\\nb" + name + "\":3}"));
    FAIL("was accepted");
  } catch (const Error& error) {
    const std::string message = error.what();
    CHECK(message.find('\n') == std::string::npos);
    CHECK(message.size() < 400);
  }
}

TEST_CASE("a thousand mutations of a valid file end in an Error of one line or in success") {
  const TemporaryFolder folder;
  write_safetensors(folder / "a", one_of_each(), {{"format", "pt"}});
  const std::string valid = read_file(folder / "a");
  Generator random(7);
  int refused = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::string bytes = mutated(valid, random);
    try {
      if (i % 10 == 0) {
        write_file_atomic(folder / "b", bytes);
        read_everything(SafetensorsFile::open(folder / "b"));
      } else {
        read_everything(parse(bytes));
      }
    } catch (const Error& error) {
      ++refused;
      const std::string message = error.what();
      REQUIRE(message.find('\n') == std::string::npos);
      REQUIRE(message.find(": byte ") != std::string::npos);
    }
  }
  CHECK(refused > 500);
  CHECK(refused < 1000);
}

TEST_CASE("real files of the hub open and write back the same tensors") {
  const char* data = std::getenv("TESSERA_DATA_DIR");
  const std::filesystem::path root = std::filesystem::path(data ? data : "") / "safetensors_small";
  if (data == nullptr || !std::filesystem::exists(root)) {
    MESSAGE("skipped: TESSERA_DATA_DIR names no folder with safetensors_small");
    return;
  }
  const TemporaryFolder folder;
  int files = 0;
  for (const auto& entry : std::filesystem::recursive_directory_iterator(root)) {
    if (entry.path().extension() != ".safetensors") continue;
    CAPTURE(entry.path().string());
    const SafetensorsFile file = SafetensorsFile::open(entry.path().string());
    Named tensors;
    for (const std::string& name : file.names()) tensors.emplace_back(name, file.get(name));
    CHECK_FALSE(tensors.empty());
    write_safetensors(folder / "copy", tensors, file.metadata());
    const SafetensorsFile copy = SafetensorsFile::open(folder / "copy");
    CHECK(copy.metadata() == file.metadata());
    for (const auto& [name, tensor] : tensors) {
      CHECK(copy.get(name).shape() == tensor.shape());
      CHECK(copy.get(name).to_vector<double>() == tensor.to_vector<double>());
    }
    ++files;
  }
  CHECK(files >= 10);
}

namespace {

// Bytes of a file that are in memory, its own mapping's or anybody's.
int64_t resident_bytes(const std::string& path) {
  const auto file = MappedFile::open(path);
  const int64_t page = sysconf(_SC_PAGESIZE);
  std::vector<unsigned char> pages(static_cast<size_t>((file->size() + page - 1) / page));
  REQUIRE(mincore(file->data(), static_cast<size_t>(file->size()), pages.data()) == 0);
  return page * std::count_if(pages.begin(), pages.end(), [](unsigned char p) { return p & 1; });
}

}  // namespace

TEST_CASE("one tensor of a file of 5 GB is read without the rest") {
  const TemporaryFolder folder;
  const std::string path = folder / "large.safetensors";
  const std::string header =
      R"({"first":{"dtype":"F32","shape":[640000,1000],"data_offsets":[0,2560000000]},)"
      R"("small":{"dtype":"F32","shape":[1000],"data_offsets":[2560000000,2560004000]},)"
      R"("last":{"dtype":"BF16","shape":[1280,1000000],"data_offsets":[2560004000,5120004000]}})";
  const uint64_t length = header.size();
  std::string start(reinterpret_cast<const char*>(&length), sizeof length);
  write_file_atomic(path, start + header);
  // The data are a hole: 5 GB of zeros that take no room on the disk.
  std::filesystem::resize_file(path, start.size() + header.size() + 5'120'004'000);
  const SafetensorsFile file = SafetensorsFile::open(path);
  CHECK(file.names() == std::vector<std::string>{"first", "small", "last"});
  CHECK(file.info("last").shape == Shape{1280, 1000000});
  CHECK(file.get("small").to_vector<float>() == std::vector<float>(1000, 0.0F));
  CHECK(resident_bytes(path) < 64 << 20);  // the system reads ahead a little
}
