// Fibers: a hand-written switch of stacks, and a pool of the stacks themselves.
#pragma once

#include <cstddef>
#include <vector>

namespace warploom::simt::emulator {

struct context {
  void* sp = nullptr;
  void* stack_low = nullptr;  // for the address sanitizer
  size_t stack_size = 0;
  void* fake_stack = nullptr;
};

struct stack {
  char* low;
  size_t size;
};

// Makes `c` begin at entry(argument) on `s` when it is first switched to. entry never returns.
void prepare(context& c, stack s, void (*entry)(void*), void* argument);

// Leaves `from` and continues `to`. `forever`: `from` is never continued.
void switch_to(context& from, context& to, bool forever = false);

// First thing a fiber does after its first switch in.
void arrived();

// Makes `c` stand for the calling thread's own stack.
void adopt_thread(context& c);

// Stacks with a guard page below, kept for reuse.
class stack_pool {
 public:
  stack_pool() = default;
  ~stack_pool();
  stack_pool(const stack_pool&) = delete;
  stack_pool& operator=(const stack_pool&) = delete;
  stack take();
  void give(stack s) { free_.push_back(s); }

 private:
  std::vector<stack> free_;
  std::vector<stack> all_;
};

}  // namespace warploom::simt::emulator
