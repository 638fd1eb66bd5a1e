// Signals between blocks and between warps: each way to get them wrong is found, every time.
#include "harness.h"
#include "kernels/signals.cuh"

namespace {

using namespace warploom::simt;  // NOLINT
using emulator::fault;
using warploom::simt::test::signal_bug;

struct run_result {
  std::vector<float> y = std::vector<float>(256);
  std::vector<int32_t> flags = std::vector<int32_t>(2);
};

template <class Kernel>
outcome start(int64_t blocks, run_result& r) {
  std::vector<float> x(256, 1.0f);
  return launch<Kernel>({blocks}, Kernel::smem_bytes, nullptr,
                        {make_global<const float>(x.data(), 256, memory::written),
                         make_global(r.y.data(), 256, memory::unwritten),
                         make_global(r.flags.data(), 2, memory::written), 256});
}

template <class Kernel>
outcome start(int64_t blocks) {
  run_result r;
  return start<Kernel>(blocks, r);
}

}  // namespace

SIMT_CASE(signal_is_clean_and_right) {
  simt_test::expect_clean([]<class M>() {
    run_result r;
    auto o = start<warploom::simt::test::signal_kernel<M, signal_bug::none>>(6, r);
    for (int b = 0; b < 5; ++b) {
      simt_test::expect(r.y[static_cast<size_t>(128 + b)] == 128.0f, "wrong sum");
    }
    return o;
  });
}

#define SIGNAL_FAULT(bug, kind)                                                 \
  SIMT_CASE(signal_##bug##_is_found) {                                          \
    simt_test::expect_fault(kind, []<class M>() {                               \
      return start<warploom::simt::test::signal_kernel<M, signal_bug::bug>>(6); \
    });                                                                         \
  }

SIGNAL_FAULT(before_the_data, fault::race)
SIGNAL_FAULT(no_barrier_before, fault::race)
SIGNAL_FAULT(relaxed_signal, fault::race)
SIGNAL_FAULT(relaxed_wait, fault::race)
SIGNAL_FAULT(block_scope, fault::race)
SIGNAL_FAULT(no_barrier_after, fault::race)
SIGNAL_FAULT(never_sent, fault::endless_wait)
SIGNAL_FAULT(spin_forever, fault::endless_wait)

// Which blocks start first is up to chance, so the bug shows in some orders only: never silently,
// and in every order in which the producer comes too late.
SIMT_CASE(signal_between_blocks_that_are_not_resident_is_found) {
  int found = 0;
  simt_test::for_every_seed([&](const std::string& where) {
    run_result r;
    const session session;
    const auto o = with_machine([&]<class M>() {
      return start<warploom::simt::test::signal_kernel<M, signal_bug::not_resident>>(16, r);
    });
    if (o.ok()) {
      simt_test::expect(r.flags[1] == 0, where + "a wait failed without a report");
      return;
    }
    ++found;
    simt_test::expect(o.error.find("must set all_resident") != o.error.npos, where + o.error);
  });
  simt_test::expect(found >= 20, "found in " + std::to_string(found) + " of 40 orders");
}

SIMT_CASE(a_wait_that_expires_lets_the_kernel_tell_the_host) {
  simt_test::for_every_seed([](const std::string& where) {
    emulator::settings().expired_wait_is_fault = false;
    run_result r;
    const session session;
    const auto o = with_machine([&]<class M>() {
      return start<warploom::simt::test::signal_kernel<M, signal_bug::never_sent>>(6, r);
    });
    simt_test::expect(o.ok(), where + o.error);
    simt_test::expect(r.flags[1] == warploom::simt::test::wait_failed,
                      where + "the error word was not set");
    simt_test::expect(r.y[128] == -1.0f, where + "the output was not poisoned");
  });
}

#define FAULT(kernel, kind, blocks)                                                            \
  SIMT_CASE(kernel##_is_found) {                                                               \
    simt_test::expect_fault(                                                                   \
        kind, []<class M>() { return start<warploom::simt::test::kernel<M, true>>(blocks); }); \
  }                                                                                            \
  SIMT_CASE(kernel##_without_the_bug_is_clean) {                                               \
    simt_test::expect_clean(                                                                   \
        []<class M>() { return start<warploom::simt::test::kernel<M, false>>(blocks); });      \
  }

FAULT(shared_flag, fault::race, 1)
FAULT(grid_barrier, fault::race, 4)
