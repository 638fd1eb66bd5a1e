# One shared object per CPU target, so that inline functions compiled for one never run on another.
set(cpu_sources csrc/backends/cpu.cc csrc/attention/cpu_table.cc csrc/attention/cpu_prefill.cc
                csrc/attention/cpu_backward.cc csrc/attention/cpu_decode.cc
                csrc/attention/cpu_pages.cc csrc/attention/cpu_merge.cc csrc/attention/cpu_page_write.cc
                csrc/kv_cache/cpu_table.cc csrc/kv_cache/cpu_quantize.cc
                csrc/kv_cache/cpu_shrink.cc csrc/kv_cache/cpu_append.cc
                csrc/kv_cache/cpu_pages.cc csrc/perf/cpu_ceilings.cc)

# Codes and what they stand for are the same to the bit on every target, with a fused multiply-add
# or without one.
set_source_files_properties(csrc/kv_cache/cpu_quantize.cc csrc/kv_cache/cpu_pages.cc
                            PROPERTIES COMPILE_OPTIONS -ffp-contract=off)

set(cpu_flags -O3 -fno-math-errno -fno-trapping-math -ffp-contract=fast)
if(WARPLOOM_SANITIZE)
  list(APPEND cpu_flags -O1)  # unrolled loops full of checks take minutes a file at -O3
endif()

# Programs that test the loops' parts in C++, one per CPU target. They exit with 77 where the
# processor cannot run the target.
function(warploom_cpu_tests name)
  foreach(test gemm math)
    set(program cpu_${test}_test_${name})
    add_executable(${program} tests/attention/cpu/${test}_test.cc)
    target_compile_options(${program} PRIVATE ${ARGN} ${cpu_flags})
    target_link_libraries(${program} PRIVATE warploom_options)
    add_test(NAME ${program} COMMAND ${program})
    set_tests_properties(${program} PROPERTIES SKIP_RETURN_CODE 77)
  endforeach()
endfunction()

# What users need: the install component `runtime`.
add_custom_target(warploom_runtime)
add_dependencies(warploom_runtime warploom)

function(warploom_cpu_target name)
  if(WARPLOOM_BUILD_TESTS)
    warploom_cpu_tests(${name} ${ARGN})
  endif()
  set(library warploom_${name})
  warploom_backend(${library} ${cpu_sources})
  target_compile_definitions(${library} PRIVATE WL_TARGET=${name} WL_TARGET_${name}=1)
  target_compile_options(${library} PRIVATE ${ARGN} ${cpu_flags})
  target_link_libraries(${library} PRIVATE OpenMP::OpenMP_CXX)
  add_dependencies(warploom_runtime ${library})
endfunction()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64")
  warploom_cpu_target(cpu_baseline -march=x86-64)
  warploom_cpu_target(cpu_v3 -march=x86-64-v3)
  warploom_cpu_target(cpu_avx512 -march=x86-64-v4 -mavx512vnni -mavx512bf16
                      -mprefer-vector-width=512)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "aarch64|arm64")
  warploom_cpu_target(cpu_aarch64 -march=armv8-a)
else()
  message(FATAL_ERROR "no CPU target for ${CMAKE_SYSTEM_PROCESSOR}")
endif()

# Calls of the C interface over a pipe, for tests of a library that only an emulator runs.
if(WARPLOOM_BUILD_TESTS AND CMAKE_CROSSCOMPILING)
  add_executable(attention_serve tests/attention/cpu/serve.cc)
  target_link_libraries(attention_serve PRIVATE warploom warploom_options)
  set_target_properties(attention_serve PROPERTIES INSTALL_RPATH "$ORIGIN/lib")
endif()
