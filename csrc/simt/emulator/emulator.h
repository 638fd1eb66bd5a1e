// The checking emulator as tests and the emulator library's host code see it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace warploom::simt::emulator {

enum class fault : uint8_t {
  race,           // two accesses that nothing orders
  unwritten,      // a read of memory that nothing wrote
  out_of_bounds,  // an access outside its pointer's extent, or misaligned
  not_landed,     // an access to the target of a copy under way
  ticket,         // copy, commit and land out of order, or a copy that never landed
  divergence,     // a rendezvous that not all of its threads reach, or at different places
  endless_wait,   // a wait that nothing can end
  deadlock,       // nothing can run
  launch,         // the launch itself is not valid
};
const char* to_string(fault f);

struct report {
  fault kind;
  std::string text;  // one sentence: kernel, block, thread, place, what
  std::string file;
  int line = 0;
};

struct options {
  int lanes = 32;               // 32 or 64: what with_machine picks
  uint64_t seed = 0;            // of the order in which threads and blocks run
  int resident_blocks = 2;      // at a time, for kernels that do not ask for all
  int64_t spin_budget = 20000;  // atomic loads without any progress before a loop counts as endless
  int max_reports = 8;          // kept per launch; further ones are counted
  bool expired_wait_is_fault = true;  // false: a test of what a kernel does when a wait fails
};

options& settings();  // for the launches that follow; one thread launches at a time
const std::vector<report>& reports();  // of the last launch

}  // namespace warploom::simt::emulator
