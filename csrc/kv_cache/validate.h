// Checks of the parameter structs before anything is read or written.
#pragma once

#include "base/status.h"
#include "warploom/kv_cache.h"

namespace warploom::kv_cache {

wl_status validate(const wl_kv_quantize_params* params);
wl_status validate(const wl_kv_dequantize_params* params);
wl_status validate(const wl_kv_shrink_params* params);
wl_status validate(const wl_kv_append_params* params);
wl_status validate(const wl_kv_blocks_params* params, bool sixteen);  // of which width blocks are
wl_status validate(const wl_kv_gather_params* params);
wl_status validate(const wl_kv_rotate_params* params);

}  // namespace warploom::kv_cache
