# A family's kernels.def as CMake sees it: the preprocessor expands it, so its macros work here as
# they do in C++. From it come one source file per GPU kernel, which keeps builds parallel, and the
# table of functions in the order of the list.

# A backend library opened beside a core of another build would be indexed wrongly: both carry this
# digest of the lists and of the parameter structs, and the core compares.
file(GLOB interface_files CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/*/kernels.def
     ${PROJECT_SOURCE_DIR}/csrc/base/targets.def ${PROJECT_SOURCE_DIR}/csrc/base/backend.h
     ${PROJECT_SOURCE_DIR}/include/warploom/*.h)
set(digests "")
foreach(file IN LISTS interface_files)
  file(SHA256 ${file} digest)
  string(APPEND digests ${digest})
endforeach()
string(SHA256 WARPLOOM_FINGERPRINT "${digests}")
string(SUBSTRING ${WARPLOOM_FINGERPRINT} 0 16 WARPLOOM_FINGERPRINT)
set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${interface_files})
configure_file(cmake/fingerprint.h.in ${PROJECT_BINARY_DIR}/generated/base/fingerprint.h)

# Sets `out` to the lines of csrc/<family>/kernels.def: "name,op,target,dtype,d_max,...".
function(warploom_kernel_list family out)
  set(probe ${PROJECT_BINARY_DIR}/generated/${family}/kernels_probe.cc)
  file(WRITE ${probe} "#define KERNEL(...) @ __VA_ARGS__ @\n"
                      "#include \"${PROJECT_SOURCE_DIR}/csrc/${family}/kernels.def\"\n")
  execute_process(COMMAND ${CMAKE_CXX_COMPILER} -E -P ${probe} OUTPUT_VARIABLE text
                          COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "@[^@]+@" lines "${text}")
  list(TRANSFORM lines REPLACE "[@ \n]" "")
  if(NOT lines)
    message(FATAL_ERROR "csrc/${family}/kernels.def lists no kernel")
  endif()
  set(${out} "${lines}" PARENT_SCOPE)
endfunction()

# Families with GPU kernels. csrc/backends/gpu_families.h names them too.
set(gpu_families attention kv_cache)

# Writes, for `backend` and every family, the table of its functions (those for the targets in ARGN,
# null for all others) and one file per kernel into the build folder. Sets <backend>_tables,
# <backend>_kernels and, per target, <backend>_<target>. A kernel's file includes
# csrc/<family>/gpu_<op>.cuh and expands WL_GPU_KERNEL(<its line of kernels.def>), which must define
# wl_status <name>(const void* params) and int64_t <name>_workspace(const void* params) in namespace
# warploom::<family>.
function(warploom_gpu_sources backend suffix)
  set(tables "")
  set(all "")
  foreach(family IN LISTS gpu_families)
    warploom_kernel_list(${family} lines)
    set(folder ${PROJECT_BINARY_DIR}/generated/${family}/${backend})
    set(declarations "")
    set(functions "")
    set(workspaces "")
    foreach(line IN LISTS lines)
      string(REPLACE "," ";" fields "${line}")
      list(GET fields 0 name)
      list(GET fields 1 op)
      list(GET fields 2 target)
      if(NOT target IN_LIST ARGN OR NOT name MATCHES "${WARPLOOM_KERNELS}")
        string(APPEND functions "    nullptr,\n")
        string(APPEND workspaces "    nullptr,\n")
        continue()
      endif()
      file(CONFIGURE OUTPUT ${folder}/${name}.${suffix} @ONLY CONTENT
"// One kernel of csrc/@family@/kernels.def.
#include \"@family@/gpu_@op@.cuh\"
WL_GPU_KERNEL(@line@)
")
      string(APPEND declarations "wl_status ${name}(const void* params);\n"
                                 "int64_t ${name}_workspace(const void* params);\n")
      string(APPEND functions "    &${name},\n")
      string(APPEND workspaces "    &${name}_workspace,\n")
      list(APPEND ${target}_sources ${folder}/${name}.${suffix})
      list(APPEND all ${folder}/${name}.${suffix})
    endforeach()
    if(NOT declarations AND NOT WARPLOOM_KERNELS)
      message(FATAL_ERROR "the ${backend} library would hold no kernel of csrc/${family}/kernels.def: "
                          "none is for ${ARGN}")
    endif()
    file(CONFIGURE OUTPUT ${folder}/table.cc @ONLY CONTENT
"// The functions of this library, in the order of csrc/@family@/kernels.def.
#include \"base/backend.h\"

namespace warploom::@family@ {

@declarations@
namespace {
const KernelFunction kFunctions[] = {
@functions@};
const WorkspaceFunction kWorkspaces[] = {
@workspaces@};
}

KernelTable gpu_table() {
  return {kFunctions, int(sizeof kFunctions / sizeof *kFunctions), kWorkspaces};
}

}  // namespace warploom::@family@
")
    list(APPEND tables ${folder}/table.cc)
  endforeach()
  set(${backend}_tables ${tables} PARENT_SCOPE)
  set(${backend}_kernels ${all} PARENT_SCOPE)
  foreach(target IN LISTS ARGN)
    set(${backend}_${target} ${${target}_sources} PARENT_SCOPE)
  endforeach()
endfunction()

# Sets `out` to a source of this backend's language with the gate that a device must pass.
function(warploom_layout_gate out backend suffix)
  set(source ${PROJECT_BINARY_DIR}/generated/backends/layout_gate_${backend}.${suffix})
  file(CONFIGURE OUTPUT ${source} @ONLY CONTENT "#include \"backends/layout_gate.cuh\"\n")
  set(${out} ${source} PARENT_SCOPE)
endfunction()
