// The emulator's own promises: buffers across launches, repeatable orders, bounded reports, launch
// errors, and no false report where threads share memory in allowed ways.
#include "harness.h"
#include "kernels/several.cuh"

namespace {

using namespace warploom::simt;  // NOLINT
using emulator::fault;

struct host_buffers {
  std::vector<float> x = std::vector<float>(256, 1.0f), y = std::vector<float>(256);
  std::vector<int32_t> flags = std::vector<int32_t>(16);
  test::buffers view(memory y_state) {
    return {make_global<const float>(x.data(), 256, memory::written),
            make_global(y.data(), 256, y_state), make_global(flags.data(), 16, memory::written),
            256};
  }
};

template <class Kernel>
outcome start(int64_t blocks) {
  host_buffers h;
  return launch<Kernel>({blocks}, Kernel::smem_bytes, nullptr, h.view(memory::unwritten));
}

template <class M, bool Planted>
outcome two_launches() {
  host_buffers h;
  auto p = h.view(memory::unwritten);
  auto o = launch<test::write_half<M>>({1}, 0, nullptr, p);
  if (!o.ok()) return o;
  p = {p.x, make_global(h.y.data(), 256, memory::kept), p.flags, 256};
  o = launch<test::read_back<M, Planted>>({1}, 0, nullptr, p);
  simt_test::expect(h.flags[0] == 0 || Planted, "the second launch read something else");
  return o;
}

}  // namespace

SIMT_CASE(a_kept_workspace_is_known_to_the_next_launch) {
  simt_test::expect_clean([]<class M>() { return two_launches<M, false>(); });
}
SIMT_CASE(the_unwritten_rest_of_a_kept_workspace_is_found) {
  simt_test::expect_fault(fault::unwritten, []<class M>() { return two_launches<M, true>(); });
}

SIMT_CASE(a_session_forgets_the_buffers_of_the_one_before) {
  simt_test::for_every_seed([](const std::string& where) {
    host_buffers h;
    {
      const session first;
      h.view(memory::written);
    }
    const session second;
    const auto o = with_machine([&]<class M>() {
      return launch<test::read_back<M, false>>({1}, 0, nullptr, h.view(memory::kept));
    });
    simt_test::expect(!o.ok(), where + "memory of an ended session counted as written");
  });
}

SIMT_CASE(a_seed_gives_the_same_reports_again) {
  std::vector<std::string> first;
  std::set<std::string> different;
  for (int round = 0; round < 2; ++round) {
    size_t i = 0;
    simt_test::for_every_seed([&](const std::string& where) {
      const session session;
      const auto o = with_machine([]<class M>() { return start<test::shared_race<M, true>>(1); });
      if (round == 0) {
        first.push_back(o.error);
        different.insert(o.error);
      } else {
        simt_test::expect(first[i] == o.error, where + first[i] + "\nthen " + o.error);
      }
      ++i;
    });
  }
  simt_test::expect(different.size() > 2, "all seeds gave the same order");
}

SIMT_CASE(reports_are_bounded_and_the_rest_counted) {
  emulator::settings() = {};
  emulator::settings().max_reports = 1;
  const session session;
  const auto o = start<test::in_place<mma32, true>>(1);
  simt_test::expect(emulator::reports().size() == 1,
                    "kept " + std::to_string(emulator::reports().size()));
  simt_test::expect(o.error.find(" more like these)") != o.error.npos, o.error);
}

SIMT_CASE(a_launch_that_no_device_takes_is_refused) {
  emulator::settings() = {};
  const session session;
  host_buffers h;
  auto o = launch<test::write_half<mma32>>({1}, 1 << 20, nullptr, h.view(memory::unwritten));
  simt_test::expect(o.error.find("1048576 bytes of shared memory") != o.error.npos, o.error);
  o = launch<test::write_half<mma32>>({-1}, 0, nullptr, h.view(memory::unwritten));
  simt_test::expect(o.error.find("grid size -1") != o.error.npos, o.error);
  simt_test::expect(emulator::reports().size() == 1 && emulator::reports()[0].kind == fault::launch,
                    "not reported as an invalid launch");
}

SIMT_CASE(an_empty_grid_runs_nothing) {
  emulator::settings() = {};
  const session session;
  simt_test::expect(start<test::write_half<mma32>>(0).ok(), "an empty grid failed");
}

#define FAULT(kernel, kind, blocks)                                                                \
  SIMT_CASE(kernel##_is_found) {                                                                   \
    simt_test::expect_fault(kind, []<class M>() { return start<test::kernel<M, true>>(blocks); }); \
  }                                                                                                \
  SIMT_CASE(kernel##_without_the_bug_is_clean) {                                                   \
    simt_test::expect_clean([]<class M>() { return start<test::kernel<M, false>>(blocks); });      \
  }

FAULT(lanes_arrive_one_by_one, fault::race, 1)
FAULT(in_place, fault::race, 1)
FAULT(table_for_all, fault::race, 40)
