// Checks of the parameter structs before anything is read or written: metadata always, values in
// host memory where exec.check asks for it.
#pragma once

#include "base/status.h"
#include "warploom/attention.h"

namespace warploom::attention {

wl_status validate(const wl_attention_forward_params* params);
wl_status validate(const wl_attention_backward_params* params);
wl_status validate(const wl_attention_decode_params* params);
wl_status validate(const wl_attention_pages_params* params);
wl_status validate(const wl_attention_merge_params* params);
wl_status validate(const wl_page_write_params* params);

}  // namespace warploom::attention
