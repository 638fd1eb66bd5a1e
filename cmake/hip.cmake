# libwarploom_hip.so: the same kernels through hipcc. CMake's own HIP language wants a ROCm clang,
# which distributions do not ship, so hipcc is called by rules of ours.
warploom_switch(WARPLOOM_WITH_HIP WARPLOOM_HIP hipcc)
if(NOT WARPLOOM_WITH_HIP)
  return()
endif()

set(hip_targets ${WARPLOOM_HIP_ARCHITECTURES})
warploom_gpu_sources(hip hip ${hip_targets})

# hipcc takes nvcc where it finds one, unless told.
set(hipcc ${CMAKE_COMMAND} -E env HIP_PLATFORM=amd ${WARPLOOM_COMPILER_hipcc})
# Each pass sees code that only the other uses, hence no warnings of what is unused.
set(hip_flags -std=c++20 -O3 -fPIC -fvisibility=hidden -fvisibility-inlines-hidden -Wall -Wextra
              -Wno-unused-function -Wno-unused-parameter -I${PROJECT_SOURCE_DIR}/include
              -I${PROJECT_SOURCE_DIR}/csrc -I${PROJECT_BINARY_DIR}/generated)
if(WARPLOOM_WERROR)
  list(APPEND hip_flags -Werror)
endif()

# Appends to `out` the object of a kernel's `source`, compiled for the architectures in ARGN.
function(warploom_hip_object out source)
  get_filename_component(name ${source} NAME)
  set(object ${PROJECT_BINARY_DIR}/hip/${name}.o)
  list(TRANSFORM ARGN PREPEND "--offload-arch=" OUTPUT_VARIABLE architectures)
  add_custom_command(
    OUTPUT ${object}
    COMMAND ${hipcc} -x hip ${architectures} ${hip_flags} -MD -MF ${object}.d -c ${source} -o
            ${object}
    DEPENDS ${source}
    DEPFILE ${object}.d
    COMMENT "Building HIP object ${name}.o"
    VERBATIM)
  set(${out} ${${out}} ${object} PARENT_SCOPE)
endfunction()

file(MAKE_DIRECTORY ${PROJECT_BINARY_DIR}/hip)
set(hip_objects "")
foreach(target IN LISTS hip_targets)
  foreach(source IN LISTS hip_${target})
    warploom_hip_object(hip_objects ${source} ${target})
  endforeach()
endforeach()

warploom_layout_gate(hip_gate hip hip)
warploom_hip_object(hip_objects ${hip_gate} ${hip_targets})

find_path(WARPLOOM_HIP_INCLUDE hip/hip_runtime_api.h HINTS $ENV{ROCM_PATH}/include REQUIRED)
find_library(WARPLOOM_HIP_RUNTIME amdhip64 HINTS $ENV{ROCM_PATH}/lib REQUIRED)
mark_as_advanced(WARPLOOM_HIP_INCLUDE WARPLOOM_HIP_RUNTIME)
warploom_backend(warploom_hip csrc/backends/hip.cc ${hip_tables} ${hip_objects})
add_dependencies(warploom_runtime warploom_hip)
target_compile_definitions(warploom_hip PRIVATE __HIP_PLATFORM_AMD__=1)
target_include_directories(warploom_hip SYSTEM PRIVATE ${WARPLOOM_HIP_INCLUDE})
target_link_libraries(warploom_hip PRIVATE ${WARPLOOM_HIP_RUNTIME})
