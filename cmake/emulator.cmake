# libwarploom_emulator.so: every GPU kernel compiled by the host compiler, run by the checking
# emulator of the kernel language.
set(emulator_targets sm_80 sm_90a gfx90a)
warploom_gpu_sources(emulator cc ${emulator_targets})
warploom_layout_gate(emulator_gate emulator cc)
warploom_backend(warploom_emulator csrc/backends/emulator.cc ${emulator_gate}
                 ${emulator_tables} ${emulator_kernels})
target_link_libraries(warploom_emulator PRIVATE simt_emulator Threads::Threads)

if(WARPLOOM_BUILD_TESTS)
  add_executable(attention_gpu_plan_test tests/attention/gpu/plan_test.cc)
  target_link_libraries(attention_gpu_plan_test PRIVATE warploom_options)
  add_test(NAME attention_gpu_plan_test COMMAND attention_gpu_plan_test)
endif()
