#include "simt/emulator/fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define WARPLOOM_FIBER_ASAN 1
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

// warploom_simt_switch(void** save, void* load): saves the callee-saved registers on the running
// stack and its pointer in *save, then continues from `load`. warploom_simt_begin is where a fresh
// stack "returns" to: it calls the entry left in the first saved registers.
#if defined(__x86_64__)
asm(R"(
.text
.p2align 4
.globl warploom_simt_switch
.hidden warploom_simt_switch
.type warploom_simt_switch, @function
warploom_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size warploom_simt_switch, .-warploom_simt_switch
.p2align 4
.globl warploom_simt_begin
.hidden warploom_simt_begin
.type warploom_simt_begin, @function
warploom_simt_begin:
  movq %r12, %rdi
  call *%r13
  ud2
.size warploom_simt_begin, .-warploom_simt_begin
)");
#elif defined(__aarch64__)
asm(R"(
.text
.p2align 4
.globl warploom_simt_switch
.hidden warploom_simt_switch
.type warploom_simt_switch, %function
warploom_simt_switch:
  sub sp, sp, #160
  stp x19, x20, [sp, #0]
  stp x21, x22, [sp, #16]
  stp x23, x24, [sp, #32]
  stp x25, x26, [sp, #48]
  stp x27, x28, [sp, #64]
  stp x29, x30, [sp, #80]
  stp d8, d9, [sp, #96]
  stp d10, d11, [sp, #112]
  stp d12, d13, [sp, #128]
  stp d14, d15, [sp, #144]
  mov x9, sp
  str x9, [x0]
  mov sp, x1
  ldp x19, x20, [sp, #0]
  ldp x21, x22, [sp, #16]
  ldp x23, x24, [sp, #32]
  ldp x25, x26, [sp, #48]
  ldp x27, x28, [sp, #64]
  ldp x29, x30, [sp, #80]
  ldp d8, d9, [sp, #96]
  ldp d10, d11, [sp, #112]
  ldp d12, d13, [sp, #128]
  ldp d14, d15, [sp, #144]
  add sp, sp, #160
  ret
.size warploom_simt_switch, .-warploom_simt_switch
.p2align 4
.globl warploom_simt_begin
.hidden warploom_simt_begin
.type warploom_simt_begin, %function
warploom_simt_begin:
  mov x0, x19
  blr x20
  brk #1
.size warploom_simt_begin, .-warploom_simt_begin
)");
#else
#error "the emulator's fibers know x86-64 and aarch64"
#endif

extern "C" {
void warploom_simt_switch(void** save, void* load);
void warploom_simt_begin();
}

namespace warploom::simt::emulator {

namespace {

#if defined(WARPLOOM_FIBER_ASAN)
constexpr size_t kStackBytes = 512 * 1024;
#else
constexpr size_t kStackBytes = 64 * 1024;
#endif

}  // namespace

void prepare(context& c, stack s, void (*entry)(void*), void* argument) {
  c = {};
  c.stack_low = s.low;
  c.stack_size = s.size;
  auto top = reinterpret_cast<uintptr_t>(s.low + s.size) & ~uintptr_t{63};
  auto* words = reinterpret_cast<void**>(top);
#if defined(__x86_64__)
  // From low to high: r15 r14 r13 r12 rbx rbp, return address, then two slots that leave the
  // stack aligned to 16 bytes inside warploom_simt_begin.
  words -= 9;
  words[2] = reinterpret_cast<void*>(entry);
  words[3] = argument;
  words[4] = words[5] = nullptr;
  words[0] = words[1] = nullptr;
  words[6] = reinterpret_cast<void*>(&warploom_simt_begin);
  words[7] = words[8] = nullptr;
#else
  words -= 20;
  for (int i = 0; i < 20; ++i) words[i] = nullptr;
  words[0] = argument;
  words[1] = reinterpret_cast<void*>(entry);
  words[11] = reinterpret_cast<void*>(&warploom_simt_begin);
#endif
  c.sp = words;
}

void adopt_thread([[maybe_unused]] context& c) {
#if defined(WARPLOOM_FIBER_ASAN)
  pthread_attr_t attributes;
  if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
    pthread_attr_getstack(&attributes, &c.stack_low, &c.stack_size);
    pthread_attr_destroy(&attributes);
  }
#endif
}

void switch_to(context& from, context& to, bool forever) {
#if defined(WARPLOOM_FIBER_ASAN)
  __sanitizer_start_switch_fiber(forever ? nullptr : &from.fake_stack, to.stack_low, to.stack_size);
  warploom_simt_switch(&from.sp, to.sp);
  __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
#else
  (void)forever;
  warploom_simt_switch(&from.sp, to.sp);
#endif
}

void arrived() {
#if defined(WARPLOOM_FIBER_ASAN)
  __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
}

stack stack_pool::take() {
  if (!free_.empty()) {
    const stack s = free_.back();
    free_.pop_back();
#if defined(WARPLOOM_FIBER_ASAN)
    __asan_unpoison_memory_region(s.low, s.size);
#endif
    return s;
  }
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  void* p = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mprotect(p, page, PROT_NONE);
  const stack s{static_cast<char*>(p) + page, kStackBytes};
  all_.push_back(s);
  return s;
}

stack_pool::~stack_pool() {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (const stack& s : all_) munmap(s.low - page, s.size + page);
}

}  // namespace warploom::simt::emulator
