// This CPU target's functions, in the order of kernels.def.
#include "attention/cpu.h"
#include "base/backend.h"
#include "base/storage.h"

namespace warploom::attention {
namespace {

// The op's function behind the table's untyped signature.
template <class Params, wl_status (*function)(const Params&)>
wl_status untyped(const void* params) {
  return function(*static_cast<const Params*>(params));
}

#define OP(op, Params) \
  template <class T>   \
  constexpr KernelFunction op##_entry = &untyped<Params, &op<T>>;
OP(prefill, wl_attention_forward_params)
OP(backward, wl_attention_backward_params)
OP(decode, wl_attention_decode_params)
OP(pages, wl_attention_pages_params)
OP(merge, wl_attention_merge_params)
OP(page_write, wl_page_write_params)
#undef OP

const KernelFunction kFunctions[] = {
#define KERNEL(name, op, target, dtype, ...) \
  Target::target == Target::WL_TARGET ? op##_entry<Storage<dtype>::type> : nullptr,
#include "attention/kernels.def"
#undef KERNEL
};

}  // namespace

KernelTable cpu_table() { return {kFunctions, int(std::size(kFunctions))}; }

}  // namespace warploom::attention
