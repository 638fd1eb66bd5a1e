// The emulator's state: who runs, who waits for what, and what was found.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "simt/emulator/emulator.h"
#include "simt/emulator/fiber.h"
#include "simt/emulator/hooks.h"
#include "simt/emulator/knowledge.h"
#include "simt/emulator/shadow.h"

namespace warploom::simt::emulator {

struct block;
struct warp;

enum class rendezvous : uint8_t { none, sync_warp, shuffle, vote, fragment_load, matrix_product };
const char* to_string(rendezvous r);

enum class state : uint8_t { ready, at_warp, at_block, waiting, done };

struct fiber : thread_info {
  context ctx;
  stack memory;
  warp* home;
  int lane;
  uint32_t number;  // in the launch
  knowledge known;  // by its own acquires, since its warp or block last met
  state now = state::ready;
  bool expired = false;
  rendezvous what = rendezvous::none;
  void* offer = nullptr;  // what this lane brings to a rendezvous and takes from it
  site at;
  uint64_t commits = 0;  // of copy tickets
  uint32_t copies_under_way = 0;
  site last_copy;
};

struct warp {
  block* home;
  int index;  // in the block
  int lanes;
  std::vector<fiber> fibers;
  uint64_t ready = 0;
  uint32_t synced = 0;    // when its lanes last met in sync_warp
  uint32_t released = 0;  // when one of them last released something
  knowledge known;
  int arrived = 0;
  const fiber* first_arrived = nullptr;
  int left = 0;
  int turn = 0;  // where the search for a ready lane starts
  bool listed = false;
};

struct block {
  int64_t index[3];
  uint32_t number;
  std::vector<warp> warps;
  std::vector<unsigned char> shared;
  std::vector<cell> cells;  // of shared memory
  uint32_t synced = 0;      // when its threads last met in sync_block
  uint32_t released = 0;    // when one of them last released something
  knowledge known;
  int arrived = 0;
  int left = 0;
  int threads = 0;
  bool conjunction = true;  // of those that have arrived
  bool agreed = true;       // of the last meeting
  const fiber* first_arrived = nullptr;
};

class engine {
 public:
  std::string run(const grid_spec& spec, void (*body)(const void*), const void* params);

  fiber& current() { return *current_; }
  block& current_block() { return *current_->home->home; }

  // All lanes of the warp meet; the last one applies `op` to what they brought.
  void meet(rendezvous what, void* offer, void (*op)(warp&), site at);
  bool meet_block(bool value, site at);
  void yield(site at);
  bool wait(site at);
  void atomic_write();  // may end somebody's wait

  // Every access counts; a loop of them in which nothing else happens is given up.
  void count_step(site at) {
    if (++steps_ > max_steps) endless_loop(at);
  }

  // Adds a report that names kernel, block, thread and place. `last`: kept whatever the limit.
  void found(fault kind, const std::string& text, site at, bool last = false);
  // The same, and gives the launch up.
  [[noreturn]] void abandon(fault kind, const std::string& text, site at);
  std::string name(const fiber& f) const;

  options config;
  std::vector<report> reports;

 private:
  static constexpr int64_t max_steps = int64_t{1} << 26;
  [[noreturn]] void endless_loop(site at);
  static void enter(void* self);
  void admit();
  void retire(block& b);
  void leave();  // the current fiber's kernel function returned
  void make_ready(fiber& f);
  void schedule();  // continue some other fiber
  fiber* pick();
  fiber* resolve_stall();
  void report_deadlock();
  std::string unstarted() const;
  std::string summary() const;
  void progress();
  uint64_t random();

  grid_spec spec_{};
  void (*body_)(const void*) = nullptr;
  const void* params_ = nullptr;
  context main_;
  fiber* current_ = nullptr;
  warp* favourite_ = nullptr;
  std::vector<warp*> listed_;  // warps that may have ready lanes
  std::vector<fiber*> waiting_;
  std::vector<std::unique_ptr<block>> resident_;
  std::vector<int64_t> pending_;  // numbers of blocks not started, in random order
  stack_pool stacks_;
  uint64_t rng_ = 0;
  int64_t idle_ = 0;
  int64_t steps_ = 0;
  int64_t more_reports_ = 0;
  bool switch_warp_ = false;
  bool abandoned_ = false;
};

extern engine the_one_engine;
inline engine& the_engine() { return the_one_engine; }
std::string place(site at);

}  // namespace warploom::simt::emulator
