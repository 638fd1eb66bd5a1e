// simt_tests NAME: runs one case. Status 1 and a sentence if it fails.
#include "harness.h"

std::set<int>& simt_test::faulty_lines() {
  static std::set<int> lines;
  return lines;
}

void simt_test_mark(int line) { simt_test::faulty_lines().insert(line); }

int main(int argc, char** argv) {
  const auto found =
      argc == 2 ? simt_test::all_cases().find(argv[1]) : simt_test::all_cases().end();
  if (found == simt_test::all_cases().end()) {
    for (const auto& [name, _] : simt_test::all_cases()) std::printf("%s\n", name.c_str());
    return argc == 1 ? 0 : 2;
  }
  try {
    found->second();
  } catch (const simt_test::failure& f) {
    std::fprintf(stderr, "%s: %s\n", argv[1], f.text.c_str());
    return 1;
  }
  return 0;
}
