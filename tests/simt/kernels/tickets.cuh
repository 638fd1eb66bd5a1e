// Asynchronous copies: a pipeline of two tickets over two buffers, and the ways to get it wrong.
#pragma once

#include "kernels/faults.cuh"

namespace warploom::simt::test {

enum class ticket_bug {
  none,
  read_before_landing,  // the copying thread reads too early
  no_block_barrier,     // landed, but others have not heard
  refill_live_buffer,   // the next copy begins while others still read
  write_while_under_way,
  never_landed,
  landed_uncommitted,
  slot_twice,
  committed_short,
  too_many_newer,      // the wait leaves this ticket's own group under way
  source_overwritten,  // between the copy and its landing, by another block's thread
};

template <class M, ticket_bug Bug>
struct ticket_pipeline : fault_kernel<M> {
  static constexpr const char* name = "ticket_pipeline";
  static constexpr int rounds = 4;  // of 256 floats: y[i] = sum over the rounds of x, reversed

  SIMT_HOST_DEVICE static constexpr bool is(ticket_bug b) { return Bug == b; }

  SIMT_DEVICE static void run(const buffers& p) {
    arena smem;
    const auto s = smem.take<float>(512);
    const int t = thread_index();
    if (is(ticket_bug::source_overwritten) && block_x() == 1) {
      FAULTY store(p.y, t, 0.0f);
      return;
    }
    // Threads 0 to 63 carry 16 bytes each, the others their zero-filled share behind it.
    const auto target = [&](int round) { return s + (round % 2) * 256 + t % 64 * 4; };
    copy_ticket<1> even, odd;
    const auto begin = [&](copy_ticket<1>& ticket, int round) {
      const auto from = is(ticket_bug::source_overwritten) ? global<const float>(p.y) + 0 : p.x;
      FAULTY if (t < 64) ticket.copy(0, target(round), from + t * 4, true);
      if (is(ticket_bug::slot_twice) && t < 64) {
        FAULTY ticket.copy(0, target(round), from + t * 4, true);
      }
      if (t < 64 && !is(ticket_bug::landed_uncommitted)) {
        FAULTY ticket.commit();
      }
    };
    if (is(ticket_bug::committed_short)) {
      copy_ticket<2> pair;
      pair.copy(0, s + t * 4, p.x, false);
      FAULTY pair.commit();
      pair.land();
      return;
    }
    float sum = 0.0f;
    begin(even, 0);
    for (int round = 0; round < rounds; ++round) {
      copy_ticket<1>& now = round % 2 == 0 ? even : odd;
      copy_ticket<1>& next = round % 2 == 0 ? odd : even;
      const bool more = round + 1 < rounds;
      if (more) begin(next, round + 1);
      if (is(ticket_bug::read_before_landing) && t < 64) {
        FAULTY sum += load(target(round));
      }
      if (is(ticket_bug::write_while_under_way) && t < 64) {
        FAULTY store(target(round), 0, 0.0f);
      }
      if (is(ticket_bug::never_landed) && !more) return;
      if (t < 64) {
        if (more || is(ticket_bug::too_many_newer)) {
          FAULTY now.template land<1>();
        } else {
          FAULTY now.land();
        }
      }
      if (!is(ticket_bug::no_block_barrier)) sync_block();
      FAULTY sum += load(s, (round % 2) * 256 + 255 - t);
      if (!is(ticket_bug::refill_live_buffer)) sync_block();
    }
    store(p.y, block_x() * 128 + t, sum);
  }
};

}  // namespace warploom::simt::test
