// Checks of single accesses: extents, valid bytes, and what is ordered before what.
#pragma once

#include "simt/emulator/engine.h"

namespace warploom::simt::emulator {

void memory_new_launch();
void memory_retire(block& b);
void memory_sync_block(block& b);
void memory_sync_warp(warp& w);
void memory_landed(const pending_copy& c, site at);

}  // namespace warploom::simt::emulator
