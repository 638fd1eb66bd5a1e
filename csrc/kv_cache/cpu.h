// The CPU loops of the cache's format, compiled once per CPU target without contraction of a
// product and a sum: codes are the same to the bit on every target.
#pragma once

#include "base/half.h"
#include "base/threads.h"
#include "kv_cache/format.h"
#include "warploom/kv_cache.h"

namespace warploom::kv_cache {

template <class T>
wl_status quantize(const wl_kv_quantize_params& params);
template <class T>
wl_status dequantize(const wl_kv_dequantize_params& params);
wl_status shrink(const wl_kv_shrink_params& params);
template <class T>
wl_status append(const wl_kv_append_params& params);
template <class T>
wl_status gather(const wl_kv_gather_params& params);
wl_status quantize_pages(const wl_kv_blocks_params& params);
wl_status shrink_pages(const wl_kv_blocks_params& params);
wl_status rotate(const wl_kv_rotate_params& params);

}  // namespace warploom::kv_cache
