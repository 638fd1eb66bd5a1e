// Checks of the parameter structs before anything is read or written.
#pragma once

#include "base/status.h"
#include "warploom/kv_cache.h"

namespace warploom::kv_cache {

wl_status validate(const wl_kv_quantize_params* params);
wl_status validate(const wl_kv_dequantize_params* params);
wl_status validate(const wl_kv_shrink_params* params);

}  // namespace warploom::kv_cache
