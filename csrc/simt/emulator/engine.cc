#include "simt/emulator/engine.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "simt/emulator/memory.h"

namespace warploom::simt::emulator {

const thread_info* running = nullptr;

const char* to_string(rendezvous r) {
  switch (r) {
    case rendezvous::none:
      return "nothing";
    case rendezvous::sync_warp:
      return "sync_warp";
    case rendezvous::shuffle:
      return "a shuffle";
    case rendezvous::vote:
      return "a vote";
    case rendezvous::fragment_load:
      return "a fragment load";
    case rendezvous::matrix_product:
      return "a matrix product";
  }
  return "?";
}

engine the_one_engine;

std::string place(site at) {
  const std::string file = at.file_name();
  const auto slash = file.rfind('/');
  return (slash == std::string::npos ? file : file.substr(slash + 1)) + ":" +
         std::to_string(at.line());
}

namespace {

bool same_place(site a, site b) {
  return a.line() == b.line() && a.column() == b.column() &&
         (a.file_name() == b.file_name() || std::strcmp(a.file_name(), b.file_name()) == 0);
}

std::string launch_error(const grid_spec& s) {
  for (int64_t n : s.blocks) {
    if (n < 0 || n > 0x7fffffff) return "grid size " + std::to_string(n) + " is out of range";
  }
  if (s.threads <= 0 || s.threads % s.lanes != 0 || s.threads > 1024) {
    return std::to_string(s.threads) + " threads: must be a multiple of " +
           std::to_string(s.lanes) + ", at most 1024";
  }
  if (s.smem_bytes < 0 || s.smem_bytes > 227 * 1024) {
    return std::to_string(s.smem_bytes) + " bytes of shared memory: at most 232448";
  }
  const double threads = static_cast<double>(s.blocks[0]) * static_cast<double>(s.blocks[1]) *
                         static_cast<double>(s.blocks[2]) * s.threads;
  if (threads >= 134217728.0) return "more than 2^27 threads: too many to emulate";
  return "";
}

}  // namespace

uint64_t engine::random() {  // splitmix64
  uint64_t z = (rng_ += 0x9e3779b97f4a7c15ull);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

std::string engine::name(const fiber& f) const {
  return "block (" + std::to_string(f.block[0]) + "," + std::to_string(f.block[1]) + "," +
         std::to_string(f.block[2]) + "), thread " + std::to_string(f.thread);
}

void engine::found(fault kind, const std::string& text, site at, bool last) {
  const std::string file = at.file_name();
  for (const report& r : reports) {
    if (r.kind == kind && r.line == static_cast<int>(at.line()) && r.file == file) {
      ++more_reports_;
      return;
    }
  }
  if (static_cast<int>(reports.size()) >= config.max_reports && !last) {
    ++more_reports_;
    return;
  }
  std::string who = std::string("kernel ") + spec_.kernel;
  if (current_) who += ", " + name(*current_);
  reports.push_back({kind, who + ", at " + place(at) + ": " + to_string(kind) + ": " + text, file,
                     static_cast<int>(at.line())});
}

void engine::abandon(fault kind, const std::string& text, site at) {
  found(kind, text, at, true);
  fiber& from = *current_;
  abandoned_ = true;
  switch_to(from.ctx, main_, true);
  __builtin_unreachable();
}

void engine::make_ready(fiber& f) {
  warp& w = *f.home;
  f.now = state::ready;
  w.ready |= uint64_t{1} << f.lane;
  if (!w.listed) {
    w.listed = true;
    listed_.push_back(&w);
  }
}

void engine::admit() {
  const int64_t number = pending_.back();
  pending_.pop_back();
  auto b = std::make_unique<block>();
  b->number = static_cast<uint32_t>(number);
  b->index[0] = number % spec_.blocks[0];
  b->index[1] = number / spec_.blocks[0] % spec_.blocks[1];
  b->index[2] = number / spec_.blocks[0] / spec_.blocks[1];
  b->threads = spec_.threads;
  b->shared.resize(static_cast<size_t>(spec_.smem_bytes));
  b->cells.resize(b->shared.size() / 16 + 1);
  b->warps.resize(static_cast<size_t>(spec_.threads / spec_.lanes));
  for (size_t i = 0; i < b->warps.size(); ++i) {
    warp& w = b->warps[i];
    w.home = b.get();
    w.index = static_cast<int>(i);
    w.lanes = spec_.lanes;
    w.fibers.resize(static_cast<size_t>(spec_.lanes));
    for (int lane = 0; lane < spec_.lanes; ++lane) {
      fiber& f = w.fibers[static_cast<size_t>(lane)];
      f.thread = static_cast<int>(i) * spec_.lanes + lane;
      f.block_threads = spec_.threads;
      for (int d = 0; d < 3; ++d) {
        f.block[d] = static_cast<int>(b->index[d]);
        f.grid[d] = static_cast<int>(spec_.blocks[d]);
      }
      f.home = &w;
      f.number = b->number * static_cast<uint32_t>(spec_.threads) + static_cast<uint32_t>(f.thread);
      f.lane = lane;
      f.memory = stacks_.take();
      prepare(f.ctx, f.memory, &engine::enter, &f);
      make_ready(f);
    }
  }
  resident_.push_back(std::move(b));
}

void engine::retire(block& b) {
  memory_retire(b);
  for (warp& w : b.warps) {
    for (fiber& f : w.fibers) stacks_.give(f.memory);
    if (w.listed) listed_.erase(std::find(listed_.begin(), listed_.end(), &w));
    if (favourite_ == &w) favourite_ = nullptr;
  }
  std::erase_if(resident_, [&](const auto& p) { return p.get() == &b; });
}

void engine::enter(void* self) {
  arrived();
  engine& e = the_engine();
  (void)self;
  e.body_(e.params_);
  e.leave();
}

void engine::leave() {
  fiber& f = *current_;
  warp& w = *f.home;
  block& b = *w.home;
  f.now = state::done;
  ++w.left;
  ++b.left;
  progress();
  if (f.copies_under_way > 0) {
    found(fault::ticket,
          "leaves the kernel with " + std::to_string(f.copies_under_way) +
              " copies that never landed",
          f.last_copy);
  }
  if (w.arrived > 0) {
    const fiber& g = *w.first_arrived;
    abandon(fault::divergence,
            "left the kernel while thread " + std::to_string(g.thread) +
                " of its warp waits for it in " + to_string(g.what) + " at " + place(g.at),
            g.at);
  }
  if (b.arrived > 0) {
    abandon(fault::divergence,
            "left the kernel while " + std::to_string(b.arrived) + " of " +
                std::to_string(b.threads) + " threads of its block wait in sync_block",
            b.first_arrived->at);
  }
  schedule();
}

void engine::progress() { idle_ = steps_ = 0; }

void engine::endless_loop(site at) {
  steps_ = 0;
  abandon(fault::endless_wait,
          "made " + std::to_string(max_steps) + " accesses in which nothing else came forward", at);
}

void engine::meet(rendezvous what, void* offer, void (*op)(warp&), site at) {
  fiber& f = *current_;
  warp& w = *f.home;
  if (w.left > 0) {
    abandon(fault::divergence,
            std::string("reached ") + to_string(what) + ", but " + std::to_string(w.left) + " of " +
                std::to_string(w.lanes) + " lanes of its warp have left the kernel",
            at);
  }
  if (w.arrived == 0) {
    w.first_arrived = &f;
  } else if (const fiber& g = *w.first_arrived; g.what != what || !same_place(g.at, at)) {
    abandon(fault::divergence,
            std::string("reached ") + to_string(what) + " while thread " +
                std::to_string(g.thread) + " of its warp waits in " + to_string(g.what) + " at " +
                place(g.at),
            at);
  }
  f.what = what;
  f.offer = offer;
  f.at = at;
  f.now = state::at_warp;
  if (++w.arrived < w.lanes) {
    schedule();
    return;
  }
  w.arrived = 0;
  progress();
  op(w);
  for (fiber& g : w.fibers) g.now = state::ready;
  w.ready =
      (w.lanes == 64 ? ~uint64_t{0} : (uint64_t{1} << w.lanes) - 1) & ~(uint64_t{1} << f.lane);
  w.turn = static_cast<int>(random() % static_cast<uint64_t>(w.lanes));
  if (!w.listed) {
    w.listed = true;
    listed_.push_back(&w);
  }
}

bool engine::meet_block(bool value, site at) {
  fiber& f = *current_;
  block& b = *f.home->home;
  if (b.left > 0) {
    abandon(fault::divergence,
            "reached sync_block, but " + std::to_string(b.left) + " of " +
                std::to_string(b.threads) + " threads of its block have left the kernel",
            at);
  }
  if (b.arrived == 0) {
    b.first_arrived = &f;
    b.conjunction = true;
  } else if (!same_place(b.first_arrived->at, at)) {
    abandon(fault::divergence,
            "reached sync_block while thread " + std::to_string(b.first_arrived->thread) +
                " of its block waits in the sync_block at " + place(b.first_arrived->at),
            at);
  }
  f.at = at;
  f.now = state::at_block;
  b.conjunction = b.conjunction && value;
  if (++b.arrived < b.threads) {
    schedule();
    return b.agreed;
  }
  b.arrived = 0;
  b.agreed = b.conjunction;  // the next meeting may begin before all have looked
  progress();
  memory_sync_block(b);
  for (warp& w : b.warps) {
    for (fiber& g : w.fibers) {
      if (&g != &f) make_ready(g);
    }
  }
  f.now = state::ready;
  switch_warp_ = true;
  return b.agreed;
}

void engine::yield(site at) {
  if (++idle_ > config.spin_budget) {
    abandon(fault::endless_wait,
            "loads an atomic again and again, and nothing that still runs changes it", at);
  }
  make_ready(*current_);
  switch_warp_ = true;
  schedule();
}

bool engine::wait(site at) {
  fiber& f = *current_;
  f.at = at;
  f.now = state::waiting;
  f.expired = false;
  waiting_.push_back(&f);
  schedule();
  return !f.expired;
}

void engine::atomic_write() {
  progress();
  for (fiber* f : waiting_) make_ready(*f);
  waiting_.clear();
}

fiber* engine::pick() {
  if (!favourite_ || favourite_->ready == 0 || switch_warp_ || random() % 64 == 0) {
    switch_warp_ = false;
    favourite_ = nullptr;
    while (!listed_.empty()) {
      const size_t i = random() % listed_.size();
      warp* w = listed_[i];
      if (w->ready != 0) {
        favourite_ = w;
        w->turn = static_cast<int>(random() % static_cast<uint64_t>(w->lanes));
        break;
      }
      w->listed = false;
      listed_[i] = listed_.back();
      listed_.pop_back();
    }
    if (!favourite_) return nullptr;
  }
  warp& w = *favourite_;
  const uint64_t above = w.ready >> w.turn;
  const int lane = above ? w.turn + std::countr_zero(above) : std::countr_zero(w.ready);
  w.ready &= ~(uint64_t{1} << lane);
  return &w.fibers[static_cast<size_t>(lane)];
}

void engine::schedule() {
  fiber& from = *current_;
  const block& b = *from.home->home;
  const bool done = from.now == state::done;
  const bool last = done && b.left == b.threads;
  fiber* next = last ? nullptr : pick();
  if (next == &from) return;
  if (!next) {
    switch_to(from.ctx, main_, done);  // which retires, admits or resolves
    return;
  }
  current_ = next;
  running = next;
  switch_to(from.ctx, next->ctx, done);
}

// Nothing is ready. A bounded wait that nothing can end any more expires; one at a time, since
// what its thread does next may end the others.
fiber* engine::resolve_stall() {
  if (waiting_.empty()) return nullptr;
  const size_t i = random() % waiting_.size();
  fiber* f = waiting_[i];
  waiting_.erase(waiting_.begin() + static_cast<std::ptrdiff_t>(i));
  f->expired = true;
  f->now = state::ready;
  if (config.expired_wait_is_fault) {
    current_ = f;
    found(fault::endless_wait,
          "waits for a value that nothing which still runs can bring" + unstarted(), f->at);
  }
  return f;
}

std::string engine::unstarted() const {
  if (pending_.empty()) return "";
  return "; " + std::to_string(pending_.size()) +
         " blocks have not started: a kernel whose blocks wait for each other must set "
         "all_resident";
}

// What is left can only be lanes that wait for lanes of their warp in a block's barrier: every
// other way to wait for a thread that does not come was told when it arose.
void engine::report_deadlock() {
  for (const auto& b : resident_) {
    for (warp& w : b->warps) {
      for (fiber& f : w.fibers) {
        if (f.now != state::at_warp) continue;
        const auto blocked = std::find_if(w.fibers.begin(), w.fibers.end(),
                                          [](const fiber& g) { return g.now == state::at_block; });
        current_ = &f;
        found(fault::deadlock,
              std::string("waits in ") + to_string(f.what) + " for thread " +
                  std::to_string(blocked->thread) + " of its warp, which waits in sync_block at " +
                  place(blocked->at),
              f.at);
        return;
      }
    }
  }
}

std::string engine::run(const grid_spec& spec, void (*body)(const void*), const void* params) {
  spec_ = spec;
  body_ = body;
  params_ = params;
  config = settings();
  reports.clear();
  more_reports_ = 0;
  rng_ = config.seed * 0x2545f4914f6cdd1dull + 1;
  progress();
  current_ = nullptr;
  favourite_ = nullptr;
  switch_warp_ = abandoned_ = false;
  const std::string invalid = launch_error(spec);
  if (!invalid.empty()) {
    found(fault::launch, invalid, site::current());
    return summary();
  }
  memory_new_launch();
  const int64_t count = spec.blocks[0] * spec.blocks[1] * spec.blocks[2];
  pending_.resize(static_cast<size_t>(count));
  for (int64_t i = 0; i < count; ++i) pending_[static_cast<size_t>(i)] = i;
  for (size_t i = pending_.size(); i > 1; --i) std::swap(pending_[i - 1], pending_[random() % i]);
  const auto limit =
      static_cast<size_t>(spec.all_resident ? count : std::max(1, config.resident_blocks));
  adopt_thread(main_);

  while (!abandoned_) {
    while (!pending_.empty() && resident_.size() < limit) admit();
    if (resident_.empty()) break;
    fiber* next = pick();
    if (!next) next = resolve_stall();
    if (!next) {
      report_deadlock();
      break;
    }
    current_ = next;
    running = next;
    switch_to(main_, next->ctx);
    block& b = *current_->home->home;
    if (b.left == b.threads) retire(b);
  }
  while (!resident_.empty()) retire(*resident_.back());
  pending_.clear();
  waiting_.clear();
  listed_.clear();
  current_ = nullptr;
  running = nullptr;
  return summary();
}

std::string engine::summary() const {
  std::string all;
  for (const report& r : reports) all += (all.empty() ? "" : "\n") + r.text;
  if (more_reports_ > 0) all += "\n(and " + std::to_string(more_reports_) + " more like these)";
  return all;
}

}  // namespace warploom::simt::emulator
