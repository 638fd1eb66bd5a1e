#include "simt/emulator/memory.h"

namespace warploom::simt::emulator {

bool touch_global(access kind, const char* where, uint32_t bytes, extent inside, site at) {
  engine& e = the_engine();
  if (where < inside.low || where + bytes > inside.high) {
    e.found(fault::out_of_bounds,
            "global access of " + std::to_string(bytes) + " bytes at byte " +
                std::to_string(where - inside.low) + " of a buffer of " +
                std::to_string(inside.high - inside.low),
            at);
    return false;
  }
  if (reinterpret_cast<uintptr_t>(where) % bytes != 0) {
    e.found(fault::out_of_bounds,
            "global access of " + std::to_string(bytes) + " bytes at byte " +
                std::to_string(where - inside.low) + " is not aligned",
            at);
    return false;
  }
  if (kind == access::atomic_store || kind == access::atomic_modify) e.atomic_write();
  return true;
}

char* touch_shared(access kind, int64_t offset, uint32_t bytes, uint32_t low, uint32_t high,
                   site at) {
  engine& e = the_engine();
  block& b = e.current_block();
  if (offset < low || offset + bytes > high ||
      offset + bytes > static_cast<int64_t>(b.shared.size())) {
    e.found(fault::out_of_bounds,
            "shared access of " + std::to_string(bytes) + " bytes at byte " +
                std::to_string(offset - low) + " of a region of " + std::to_string(high - low) +
                " bytes, " + std::to_string(b.shared.size()) + " in the block",
            at);
    return nullptr;
  }
  if (offset % bytes != 0) {
    e.found(fault::out_of_bounds,
            "shared access of " + std::to_string(bytes) + " bytes at byte " +
                std::to_string(offset - low) + " is not aligned",
            at);
    return nullptr;
  }
  if (kind == access::atomic_store || kind == access::atomic_modify) e.atomic_write();
  return reinterpret_cast<char*>(b.shared.data()) + offset;
}

void memory_sync_warp(warp&) {}
void memory_landed(const pending_copy&, site) {}
void order_after(const void*, order, scope, rmw) {}
void order_before(const void*, order, scope, rmw) {}
void declare(extent, bool) {}
void forget() {}

}  // namespace warploom::simt::emulator
