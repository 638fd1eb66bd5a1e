// The CPU loops of the attention family, compiled once per CPU target. Each is defined in the .cc
// of its name; T is the storage type (float, f16, bf16).
#pragma once

#include "base/half.h"
#include "base/threads.h"
#include "warploom/attention.h"

namespace warploom::attention {

template <class T>
wl_status prefill(const wl_attention_forward_params& params);
template <class T>
wl_status backward(const wl_attention_backward_params& params);
template <class T>
wl_status decode(const wl_attention_decode_params& params);
template <class T>
wl_status pages(const wl_attention_pages_params& params);
template <class T>
wl_status merge(const wl_attention_merge_params& params);
template <class T>
wl_status page_write(const wl_page_write_params& params);

}  // namespace warploom::attention

// Instantiates one of them for every storage type, at the end of its .cc.
#define WL_INSTANTIATE(op, Params)             \
  namespace warploom::attention {              \
  template wl_status op<float>(const Params&); \
  template wl_status op<f16>(const Params&);   \
  template wl_status op<bf16>(const Params&);  \
  }
