// What the words of words_emulated.h ask of the emulator. Kernels never call these.
#pragma once

#include <cstdint>
#include <string>

#include "simt/emulator/emulator.h"
#include "simt/target.h"

namespace warploom::simt::emulator {

struct extent {
  const char* low;
  const char* high;
};

struct thread_info {
  int thread;
  int block_threads;
  int block[3];
  int grid[3];
};
extern const thread_info* running;
inline const thread_info& self() { return *running; }

enum class access : uint8_t {
  read,
  fragment,  // a read by the warp as one
  write,
  copy,  // the target of an asynchronous copy
  atomic_load,
  atomic_store,
  atomic_modify
};

// Check an access and note it. False (null): it must not happen; the report is made.
bool touch_global(access kind, const char* where, uint32_t bytes, extent inside, site at);
char* touch_shared(access kind, int64_t offset, uint32_t bytes, uint32_t low, uint32_t high,
                   site at);

// Rendezvous of a block (the conjunction of `value`) and of a warp.
bool sync_block(bool value, site at);
void sync_warp(site at);
void converge(site at);
uint32_t shuffle(uint32_t value, int from_lane, int lanes, site at);
int vote(bool value, int lanes, site at);

enum class operand : uint8_t { bf16, f16 };
void ldmatrix_x4(uint32_t* r, uint32_t offset, uint32_t low, uint32_t high, bool trans, site at);
void mma_m16n8k16(float* c, const uint32_t* a, const uint32_t* b, operand type, site at);
void mfma_16x16x16(float* d, const uint32_t* a, const uint32_t* b, operand type, site at);

struct ticket_state {
  static constexpr int most = 32;  // slots: the bits of `copied`
  enum phase : uint8_t { open, committed } phase = open;
  uint32_t copied = 0;        // bit i: slot i was used since the last landing
  uint64_t committed_as = 0;  // running number of this thread's commits
};
struct pending_copy {
  char* target;        // null: the copy was refused
  const char* source;  // null: fill with zeros
  uint32_t offset;
};
bool ticket_copy(ticket_state& state, int slot, int slots, site at);
void ticket_commit(ticket_state& state, int slots, site at);
void ticket_land(ticket_state& state, pending_copy* pending, int slots, int newer, site at);

// Ordering by atomics on the variable at `where`.
enum class rmw : uint8_t { no, yes };
void order_after(const void* where, order o, scope s, rmw kind);   // an atomic read happened
void order_before(const void* where, order o, scope s, rmw kind);  // an atomic write happens

void poll(site at);  // an atomic load: lets others run, notices endless loops
bool wait(site at);  // until some atomic write happens; false: none can come any more

void declare(extent e, bool written);
const char* first_unwritten(extent e);  // null: every byte holds a value
void forget();

struct grid_spec {
  const char* kernel;
  int64_t blocks[3];
  int threads;
  int lanes;
  int64_t smem_bytes;
  bool all_resident;
};
// Runs the grid and returns what the checks found: empty if nothing.
std::string run(const grid_spec& spec, void (*body)(const void*), const void* params);

}  // namespace warploom::simt::emulator
