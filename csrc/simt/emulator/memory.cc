#include "simt/emulator/memory.h"

#include <cstring>

#include "simt/emulator/shadow.h"

namespace warploom::simt::emulator {

namespace {

// An atomic variable remembers what its releases made known, by who may learn it.
struct release {
  uint32_t block;
  bool block_only;
  knowledge known;
};

struct memory_model {
  global_shadow global;
  far_traces far;
  places where;
  std::unordered_map<const void*, std::vector<release>> variables;
  uint32_t now = 1;

  uint32_t tick() { return ++now; }
};

memory_model the_model;
memory_model& model() { return the_model; }

uint32_t block_of(const fiber& f, uint32_t thread) {
  return thread / static_cast<uint32_t>(f.block_threads);
}
uint32_t warp_of(const fiber& f, uint32_t thread) {
  return thread / static_cast<uint32_t>(f.home->lanes);
}

// Is all that `members` numbers from `first` did up to `time` known?
template <class Known>
bool all_known(uint32_t first, uint32_t members, Known known) {
  for (uint32_t i = 0; i < members; ++i) {
    if (!known(first + i)) return false;
  }
  return true;
}

bool known_from(const knowledge& k, const fiber& f, const trace& t) {
  if (k.empty()) return false;
  const auto lanes = static_cast<uint32_t>(f.home->lanes);
  const auto thread_known = [&](uint32_t thread) { return k.threads.of(thread) > t.time; };
  const auto warp_known = [&](uint32_t warp) {
    return k.warps.of(warp) > t.time || all_known(warp * lanes, lanes, thread_known);
  };
  if (k.blocks.of(block_of(f, t.thread)) > t.time) return true;
  const uint32_t warp = warp_of(f, t.thread);
  switch (t.by) {
    case group::thread:
      return k.warps.of(warp) > t.time || thread_known(t.thread);
    case group::warp:
      return warp_known(warp);
    case group::block:
      return all_known(warp, static_cast<uint32_t>(f.block_threads) / lanes, warp_known);
  }
  return false;
}

// Did `t` happen before what `f` does now, by program order or a barrier? What a warp does as one,
// it does for all of its lanes: then what this lane alone did or learnt does not count.
bool ordered_here(const trace& t, const fiber& f, bool as_warp) {
  if (!as_warp && t.by == group::thread && t.thread == f.number) return true;
  const warp& w = *f.home;
  const block& b = *w.home;
  const uint32_t in_block = t.thread - b.number * static_cast<uint32_t>(f.block_threads);
  if (in_block >= static_cast<uint32_t>(f.block_threads)) return false;
  if (t.time < b.synced) return true;
  return t.by != group::block && t.time < w.synced &&
         in_block - static_cast<uint32_t>(f.thread - f.lane) < static_cast<uint32_t>(w.lanes);
}

// The same, or by what somebody released and this thread, its warp or its block acquired?
bool ordered(const trace& t, const fiber& f, bool as_warp) {
  const warp& w = *f.home;
  const block& b = *w.home;
  return ordered_here(t, f, as_warp) || (!as_warp && known_from(f.known, f, t)) ||
         known_from(w.known, f, t) || known_from(b.known, f, t);
}

bool writes(mark m) { return m == mark::write || m == mark::atomic_write || m == mark::pending; }
bool atomic(mark m) { return m == mark::atomic_read || m == mark::atomic_write; }
bool conflict(mark a, mark b) { return (writes(a) || writes(b)) && !(atomic(a) && atomic(b)); }

// Whoever conflicts with `older` conflicts with `newer` too, so an ordered older one can go.
bool covers(mark newer, mark older) {
  switch (newer) {
    case mark::write:
    case mark::pending:
      return true;
    case mark::read:
      return older == mark::read || older == mark::atomic_read;
    case mark::atomic_write:
      return atomic(older);
    case mark::atomic_read:
      return older == mark::atomic_read;
  }
  return false;
}

const char* did(mark m) {
  switch (m) {
    case mark::read:
      return "read";
    case mark::write:
      return "wrote";
    case mark::atomic_read:
      return "read atomically";
    case mark::atomic_write:
      return "wrote atomically";
    case mark::pending:
      return "copies to";
  }
  return "?";
}
const char* does(access a) {
  switch (a) {
    case access::read:
      return "reads";
    case access::fragment:
      return "loads a fragment from";
    case access::write:
      return "writes";
    case access::copy:
      return "begins an asynchronous copy onto";
    case access::atomic_load:
      return "atomically reads";
    case access::atomic_store:
      return "atomically writes";
    case access::atomic_modify:
      return "atomically modifies";
  }
  return "?";
}
mark mark_of(access a) {
  switch (a) {
    case access::read:
    case access::fragment:
      return mark::read;
    case access::write:
      return mark::write;
    case access::copy:
      return mark::pending;
    case access::atomic_load:
      return mark::atomic_read;
    case access::atomic_store:
    case access::atomic_modify:
      return mark::atomic_write;
  }
  return mark::read;
}
bool reads(access a) {
  return a == access::read || a == access::fragment || a == access::atomic_load ||
         a == access::atomic_modify;
}

struct region {
  const char* space;
  int64_t offset;  // of the access in its pointer's extent
};

std::string bytes_of(const region& r, uint32_t bytes) {
  return std::to_string(bytes) + " bytes at byte " + std::to_string(r.offset) + " of a " + r.space +
         " buffer";
}

std::string other(const fiber& f, const trace& t) {
  const uint32_t n = block_of(f, t.thread);
  std::string who = t.by == group::thread ? "thread "
                    : t.by == group::warp ? "the warp of thread "
                                          : "the block of thread ";
  who += std::to_string(t.thread % static_cast<uint32_t>(f.block_threads));
  if (n != f.home->home->number) {
    const auto gx = static_cast<uint32_t>(f.grid[0]), gy = static_cast<uint32_t>(f.grid[1]);
    who += " of block (" + std::to_string(n % gx) + "," + std::to_string(n / gx % gy) + "," +
           std::to_string(n / gx / gy) + ")";
  }
  return who;
}

// A group of threads that one trace can stand for.
struct members {
  group by;
  uint32_t first, count;
  uint32_t released;  // when one of them last released something
};
members fellows(const fiber& f, group by) {
  const warp& w = *f.home;
  const block& b = *w.home;
  const auto lanes = static_cast<uint32_t>(w.lanes),
             threads = static_cast<uint32_t>(f.block_threads);
  if (by == group::warp) return {by, f.number - static_cast<uint32_t>(f.lane), lanes, w.released};
  return {by, b.number * threads, threads, b.released};
}

// Can `t` stand for an access of the group now? Its one time is the latest of all members', which
// says too much once a member has released what it did before.
bool joins(const trace& t, const members& g) {
  return t.thread - g.first < g.count && t.time >= g.released;
}
bool stands_for(const trace& t, const fiber& f) {
  return t.by != group::thread && joins(t, fellows(f, t.by));
}

// Adds an access that others of its kind do not conflict with. Where several members of a group
// made the same one, the group stands for them: whoever conflicts with it, a member too, conflicts
// with another member. So data that everybody reads does not cost a trace per thread.
void add_shared(cell& c, trace mine, const members& g) {
  far_traces& far = model().far;
  const group from = mine.by;
  uint16_t promoted = 0;
  int standing = -1;  // the group's own trace
  for (int i = 0; i < c.count; ++i) {
    const trace& t = far.at(c, i);
    if (t.kind == mine.kind && t.by == g.by && joins(t, g)) standing = i;
  }
  if (standing >= 0) {
    trace& t = far.at(c, standing);
    promoted = mine.bytes & t.bytes;
  }
  for (int i = 0; i < c.count;) {
    trace& t = far.at(c, i);
    const bool fellow =
        t.kind == mine.kind && t.by == from && t.thread != mine.thread && joins(t, g);
    const auto both = static_cast<uint16_t>(fellow ? t.bytes & mine.bytes : 0);
    promoted |= both;
    t.bytes = static_cast<uint16_t>(t.bytes & ~both);
    if (t.bytes != 0) {
      ++i;
      continue;
    }
    if (standing == c.count - 1) standing = i;
    far.remove(c, i);
  }
  if (promoted != 0) {
    if (standing >= 0) {
      trace& t = far.at(c, standing);
      t.bytes |= promoted;
      t.time = mine.time;
      t.place = mine.place;
    } else {
      trace t = mine;
      t.by = g.by;
      t.thread = g.first;
      t.bytes = promoted;
      far.add(c, t);
    }
  }
  mine.bytes = static_cast<uint16_t>(mine.bytes & ~promoted);
  if (mine.bytes != 0) far.add(c, mine);
}

void add(cell& c, const trace& mine, const fiber& f) {
  constexpr int many = 24;  // from here on a block stands for its warps
  if (mine.kind == mark::write || mine.kind == mark::pending || c.count == 0) {
    model().far.add(c, mine);
  } else if (mine.by == group::thread) {
    add_shared(c, mine, fellows(f, group::warp));
  } else {
    model().far.add(c, mine);
  }
  if (c.count <= many) return;
  const members block = fellows(f, group::block);
  for (int i = 0; i < c.count; ++i) {
    const trace t = model().far.at(c, i);
    const bool ours = t.by == group::warp && warp_of(f, t.thread) == warp_of(f, f.number);
    if (!ours || t.kind != mine.kind || !joins(t, block)) continue;
    model().far.remove(c, i);
    add_shared(c, t, block);
    return;
  }
}

void check(cell& c, access kind, uint32_t first, uint32_t bytes, const region& r, site at) {
  engine& e = the_engine();
  memory_model& m = model();
  const fiber& f = e.current();
  e.count_step(at);
  const auto mask = static_cast<uint16_t>(((1u << bytes) - 1u) << first);
  const mark now = mark_of(kind);
  const group by = kind == access::fragment ? group::warp : group::thread;
  const uint32_t thread = by == group::warp ? f.number - static_cast<uint32_t>(f.lane) : f.number;
  // All fields at once: bit by bit, each would wait for the store of the one before.
  const trace mine{m.now, thread, by, now, mask, m.where.number(at)};

  bool merged = false, landed = true;
  for (int i = 0; i < c.count;) {
    trace& t = m.far.at(c, i);
    if (!(t.bytes & mask)) {
      // Neighbouring bytes of the same act: one trace is enough.
      if (!merged && t.thread == thread && t.kind == now && t.time == m.now && t.by == by &&
          now != mark::pending) {
        t.bytes |= mask;
        t.place = mine.place;
        merged = true;
      }
      ++i;
      continue;
    }
    if (t.kind == mark::pending) {
      landed = false;
      e.found(fault::not_landed,
              std::string(does(kind)) + " " + bytes_of(r, bytes) + ", to which " + other(f, t) +
                  "'s copy at " + place(m.where.of(t.place)) + " has not landed",
              at);
      ++i;
      continue;
    }
    const bool as_warp = by == group::warp;
    const bool opposed = conflict(t.kind, now);
    // A group's act before a barrier is over: this one alone would not be the group's again.
    if (!opposed && t.kind == now && (t.bytes & mask) == mask && stands_for(t, f) &&
        !ordered_here(t, f, as_warp)) {
      t.time = m.now;
      t.place = mine.place;
      merged = true;
      ++i;
      continue;
    }
    const bool before = opposed ? ordered(t, f, as_warp) : ordered_here(t, f, as_warp);
    if (!before && opposed) {
      e.found(fault::race,
              std::string(does(kind)) + " " + bytes_of(r, bytes) + ", which " + other(f, t) + " " +
                  did(t.kind) + " at " + place(m.where.of(t.place)) +
                  ", and nothing orders the two",
              at);
    }
    const bool same = t.thread == thread && t.by == by && t.kind == now;
    if (same && t.time == m.now && now != mark::pending && !merged) {
      t.bytes |= mask;
      t.place = mine.place;
      merged = true;
      ++i;
      continue;
    }
    // A race is told once: afterwards the newer write stands for both.
    if ((before || same || writes(now)) && covers(now, t.kind)) {
      t.bytes = static_cast<uint16_t>(t.bytes & ~mask);
      if (t.bytes == 0) {
        m.far.remove(c, i);
        continue;
      }
    }
    ++i;
  }
  if (reads(kind) && landed && (c.valid & mask) != mask) {
    e.found(fault::unwritten,
            std::string(does(kind)) + " " + bytes_of(r, bytes) + ", which nothing wrote", at);
    c.valid |= mask;  // once is enough
  }
  if (now == mark::pending) {
    c.valid = static_cast<uint16_t>(c.valid & ~mask);
  } else if (writes(now) && landed) {
    c.valid |= mask;
  }
  if (!merged) add(c, mine, f);
}

}  // namespace

bool touch_global(access kind, const char* where, uint32_t bytes, extent inside, site at) {
  engine& e = the_engine();
  const int64_t offset = where - inside.low;
  const bool outside = where < inside.low || where + bytes > inside.high;
  if (outside || reinterpret_cast<uintptr_t>(where) % bytes != 0) {
    e.found(fault::out_of_bounds,
            std::string(does(kind)) + " " + bytes_of({"global", offset}, bytes) + " of " +
                std::to_string(inside.high - inside.low) + " bytes" +
                (outside ? "" : ": not aligned to its size"),
            at);
    return false;
  }
  check(model().global.at(where), kind, reinterpret_cast<uintptr_t>(where) % 16, bytes,
        {"global", offset}, at);
  if (kind == access::atomic_store || kind == access::atomic_modify) e.atomic_write();
  return true;
}

char* touch_shared(access kind, int64_t offset, uint32_t bytes, uint32_t low, uint32_t high,
                   site at) {
  engine& e = the_engine();
  block& b = e.current_block();
  const int64_t size = static_cast<int64_t>(b.shared.size());
  const bool outside = offset < low || offset + bytes > high || offset + bytes > size;
  if (outside || offset % bytes != 0) {
    std::string text = std::string(does(kind)) + " " + bytes_of({"shared", offset - low}, bytes) +
                       " of " + std::to_string(high - low) + " bytes";
    if (!outside) text += ": not aligned to its size";
    if (high > size) {
      text += "; the arena goes to byte " + std::to_string(high) + " of the " +
              std::to_string(size) + " the launch gave it";
    }
    e.found(fault::out_of_bounds, text, at);
    return nullptr;
  }
  check(b.cells[static_cast<size_t>(offset / 16)], kind, static_cast<uint32_t>(offset % 16), bytes,
        {"shared", offset - low}, at);
  if (kind == access::atomic_store || kind == access::atomic_modify) e.atomic_write();
  return reinterpret_cast<char*>(b.shared.data()) + offset;
}

void memory_landed(const pending_copy& p, site at) {
  memory_model& m = model();
  const fiber& f = the_engine().current();
  cell& c = f.home->home->cells[p.offset / 16];
  for (int i = 0; i < c.count; ++i) {
    trace& t = m.far.at(c, i);
    if (t.kind != mark::pending || t.thread != f.number) continue;
    t.kind = mark::write;
    t.time = m.now;
    t.place = m.where.number(at);
  }
  c.valid = 0xffff;
}

void memory_new_launch() {
  memory_model& m = model();
  m.global.new_launch();
  m.far.clear();
  m.variables.clear();
  m.now = 1;
}

void memory_retire(block& b) {
  for (cell& c : b.cells) model().far.drop(c);
}

void memory_sync_warp(warp& w) {
  for (fiber& f : w.fibers) {
    if (f.known.empty()) continue;
    w.known.join(f.known);
    f.known.clear();
  }
  w.synced = model().tick();
}

void memory_sync_block(block& b) {
  for (warp& w : b.warps) {
    for (fiber& f : w.fibers) {
      if (f.known.empty()) continue;
      b.known.join(f.known);
      f.known.clear();
    }
    if (w.known.empty()) continue;
    b.known.join(w.known);
    w.known.clear();
  }
  b.synced = model().tick();
}

void order_after(const void* where, order o, scope s, rmw) {
  if (o != order::acquire && o != order::acq_rel) return;
  const auto v = model().variables.find(where);
  if (v == model().variables.end()) return;
  fiber& f = the_engine().current();
  for (const release& r : v->second) {
    const bool near = r.block == f.home->home->number;
    if (near || (!r.block_only && s != scope::block)) f.known.join(r.known);
  }
}

void order_before(const void* where, order o, scope s, rmw kind) {
  const bool releases = o == order::release || o == order::acq_rel;
  auto& list = model().variables[where];
  if (kind == rmw::no) list.clear();  // a plain store ends the sequence of releases
  if (!releases) return;
  const fiber& f = the_engine().current();
  warp& w = *f.home;
  block& b = *w.home;
  knowledge k = f.known;
  k.join(w.known);
  k.join(b.known);
  const auto number = static_cast<uint32_t>(b.number);
  if (b.synced > 0) k.blocks.raise(number, b.synced);
  if (w.synced > 0) k.warps.raise(warp_of(f, f.number), w.synced);
  w.released = b.released = model().tick();
  k.threads.raise(f.number, w.released);
  for (release& r : list) {
    if (r.block != number || r.block_only != (s == scope::block)) continue;
    r.known.join(k);
    return;
  }
  list.push_back({number, s == scope::block, std::move(k)});
}

void declare(extent e, bool written) { model().global.declare(e.low, e.high, written); }
const char* first_unwritten(extent e) { return model().global.first_unwritten(e.low, e.high); }
void forget() { model().global.forget(); }

}  // namespace warploom::simt::emulator
