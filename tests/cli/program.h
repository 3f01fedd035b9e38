// The program as a person uses it: run as a process, judged by its output and exit code.
#pragma once

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <string>

namespace tessera_tests {

struct Output {
  int code = 0;
  std::string text;
};

// Runs a shell command line that begins behind the program's name; the text is that of stdout and,
// unless the line sends it elsewhere, stderr.
inline Output run_program(const std::string& arguments) {
  const std::string line = std::string(TESSERA_PROGRAM) + " 2>&1 " + arguments;
  FILE* pipe = popen(line.c_str(), "r");
  REQUIRE(pipe != nullptr);
  Output out;
  std::array<char, 4096> buffer{};
  for (size_t n = 0; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) {
    out.text.append(buffer.data(), n);
  }
  const int status = pclose(pipe);
  out.code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  return out;
}

// A user's mistake: exit code 2 and one line that says what.
inline void check_mistake(const Output& out, const std::string& expected) {
  CAPTURE(out.text);
  CHECK(out.code == 2);
  CHECK(std::count(out.text.begin(), out.text.end(), '\n') == 1);
  CHECK(out.text.find(expected) != std::string::npos);
}

}  // namespace tessera_tests
