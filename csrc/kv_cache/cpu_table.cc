// This CPU target's functions, in the order of kernels.def.
#include "base/backend.h"
#include "base/storage.h"
#include "kv_cache/cpu.h"

namespace warploom::kv_cache {
namespace {

// The op's function behind the table's untyped signature.
template <class Params, wl_status (*function)(const Params&)>
wl_status untyped(const void* params) {
  return function(*static_cast<const Params*>(params));
}

template <class T>
constexpr KernelFunction quantize_entry = &untyped<wl_kv_quantize_params, &quantize<T>>;
template <class T>
constexpr KernelFunction dequantize_entry = &untyped<wl_kv_dequantize_params, &dequantize<T>>;
template <class>
constexpr KernelFunction shrink_entry = &untyped<wl_kv_shrink_params, &shrink>;
template <class T>
constexpr KernelFunction append_entry = &untyped<wl_kv_append_params, &append<T>>;
template <class T>
constexpr KernelFunction gather_entry = &untyped<wl_kv_gather_params, &gather<T>>;
template <class>
constexpr KernelFunction quantize_pages_entry = &untyped<wl_kv_blocks_params, &quantize_pages>;
template <class>
constexpr KernelFunction shrink_pages_entry = &untyped<wl_kv_blocks_params, &shrink_pages>;
template <class>
constexpr KernelFunction rotate_entry = &untyped<wl_kv_rotate_params, &rotate>;

const KernelFunction kFunctions[] = {
#define KERNEL(name, op, target, dtype, score) \
  Target::target == Target::WL_TARGET ? op##_entry<Storage<dtype>::type> : nullptr,
#include "kv_cache/kernels.def"
#undef KERNEL
};

}  // namespace

KernelTable cpu_table() { return {kFunctions, int(std::size(kFunctions))}; }

}  // namespace warploom::kv_cache
