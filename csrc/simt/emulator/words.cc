// The rendezvous words, tickets, votes and shuffles, over the engine.
#include <cstring>
#include <mutex>

#include "simt/emulator/engine.h"
#include "simt/emulator/memory.h"

namespace warploom::simt::emulator {

const char* to_string(fault f) {
  switch (f) {
    case fault::race:
      return "race";
    case fault::unwritten:
      return "read of unwritten memory";
    case fault::out_of_bounds:
      return "out of bounds";
    case fault::not_landed:
      return "copy not landed";
    case fault::ticket:
      return "misused copy ticket";
    case fault::divergence:
      return "divergence";
    case fault::endless_wait:
      return "endless wait";
    case fault::deadlock:
      return "deadlock";
    case fault::launch:
      return "invalid launch";
  }
  return "?";
}

options& settings() {
  static options o;
  return o;
}

const std::vector<report>& reports() { return the_engine().reports; }

std::string run(const grid_spec& spec, void (*body)(const void*), const void* params) {
  static std::mutex one_at_a_time;
  const std::lock_guard lock(one_at_a_time);
  return the_engine().run(spec, body, params);
}

bool sync_block(bool value, site at) { return the_engine().meet_block(value, at); }

void sync_warp(site at) {
  the_engine().meet(rendezvous::sync_warp, nullptr, [](warp& w) { memory_sync_warp(w); }, at);
}

void converge(site at) {
  the_engine().meet(rendezvous::fragment_load, nullptr, [](warp&) {}, at);
}

namespace {

struct shuffle_offer {
  uint32_t value, result;
  int from;
};
struct vote_offer {
  bool value;
  int count;
};

}  // namespace

uint32_t shuffle(uint32_t value, int from_lane, int lanes, site at) {
  shuffle_offer mine{value, 0, from_lane};
  if (from_lane < 0 || from_lane >= lanes) {
    the_engine().found(
        fault::out_of_bounds,
        "shuffles from lane " + std::to_string(from_lane) + " of " + std::to_string(lanes), at);
    mine.from = 0;
  }
  the_engine().meet(
      rendezvous::shuffle, &mine,
      [](warp& w) {
        for (fiber& f : w.fibers) {
          auto& to = *static_cast<shuffle_offer*>(f.offer);
          to.result =
              static_cast<shuffle_offer*>(w.fibers[static_cast<size_t>(to.from)].offer)->value;
        }
      },
      at);
  return mine.result;
}

int vote(bool value, int, site at) {
  vote_offer mine{value, 0};
  the_engine().meet(
      rendezvous::vote, &mine,
      [](warp& w) {
        int count = 0;
        for (fiber& f : w.fibers) count += static_cast<vote_offer*>(f.offer)->value ? 1 : 0;
        for (fiber& f : w.fibers) static_cast<vote_offer*>(f.offer)->count = count;
      },
      at);
  return mine.count;
}

void poll(site at) { the_engine().yield(at); }
bool wait(site at) { return the_engine().wait(at); }

bool ticket_copy(ticket_state& t, int slot, int slots, site at) {
  engine& e = the_engine();
  if (t.phase != ticket_state::open) {
    e.found(fault::ticket, "copies on a ticket that is committed and has not landed", at);
    return false;
  }
  if (slot < 0 || slot >= slots || (t.copied >> slot & 1u)) {
    e.found(fault::ticket,
            "copies in slot " + std::to_string(slot) + ", which is used already or not one of " +
                std::to_string(slots),
            at);
    return false;
  }
  t.copied |= 1u << slot;
  ++e.current().copies_under_way;
  e.current().last_copy = at;
  return true;
}

void ticket_commit(ticket_state& t, int slots, site at) {
  engine& e = the_engine();
  if (t.phase != ticket_state::open) {
    e.found(fault::ticket, "commits a ticket twice", at);
    return;
  }
  const uint32_t all = slots >= 32 ? ~0u : (1u << slots) - 1u;
  if (t.copied != all) {
    e.found(fault::ticket, "commits before all " + std::to_string(slots) + " slots were copied",
            at);
  }
  t.phase = ticket_state::committed;
  t.committed_as = ++e.current().commits;
}

void ticket_land(ticket_state& t, pending_copy* pending, int slots, int newer, site at) {
  engine& e = the_engine();
  fiber& f = e.current();
  if (t.phase != ticket_state::committed) {
    e.found(fault::ticket, "lands a ticket that was not committed", at);
    return;
  }
  if (static_cast<uint64_t>(newer) > f.commits - t.committed_as) {
    e.found(fault::ticket,
            "lands allowing " + std::to_string(newer) + " newer commits under way, but only " +
                std::to_string(f.commits - t.committed_as) + " came after this ticket's",
            at);
  }
  for (int i = 0; i < slots; ++i) {
    if (!(t.copied >> i & 1u)) continue;
    if (pending[i].target) {
      if (pending[i].source) {
        // The source is read at any time up to here.
        touch_global(access::read, pending[i].source, 16,
                     {pending[i].source, pending[i].source + 16}, at);
        std::memcpy(pending[i].target, pending[i].source, 16);
      } else {
        std::memset(pending[i].target, 0, 16);
      }
      memory_landed(pending[i], at);
    }
    --f.copies_under_way;
  }
  t.copied = 0;
  t.phase = ticket_state::open;
}

}  // namespace warploom::simt::emulator
