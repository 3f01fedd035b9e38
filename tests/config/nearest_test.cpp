#include "tessera/config/nearest.h"

#include <doctest/doctest.h>

#include <string>
#include <vector>

namespace tessera {

TEST_CASE("edit distance counts insertions, deletions, substitutions and swaps") {
  CHECK(edit_distance("", "") == 0);
  CHECK(edit_distance("", "abc") == 3);
  CHECK(edit_distance("clustres", "clusters") == 1);
  CHECK(edit_distance("transfomer", "transformer") == 1);
  CHECK(edit_distance("kitten", "sitting") == 3);
  CHECK(edit_distance("ca", "abc") == 3);
  CHECK(edit_distance("WIDTH", "width") == 0);
}

TEST_CASE("only a plausible name is suggested") {
  const std::vector<std::string> names = {"width", "heads", "lr", "x"};
  CHECK(nearest("widht", names) == "width");
  CHECK(nearest("Heads", names) == "heads");
  CHECK(nearest("ls", names) == "lr");
  CHECK(!nearest("depth_of_it", names));
  CHECK(!nearest("q", names));
  CHECK(!nearest("", names));
  CHECK(!nearest("anything", {}));
  CHECK(!nearest(std::string(100000, 'a'), names));
}

TEST_CASE("the hint is empty when nothing is near") {
  const std::vector<std::string> names = {"width"};
  CHECK(did_you_mean("wdith", names) == "; did you mean \"width\"?");
  CHECK(did_you_mean("bias", names).empty());
}

}  // namespace tessera
