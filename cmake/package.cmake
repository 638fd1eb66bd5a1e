# For C and C++ users: headers, and find_package(warploom) with the target warploom::warploom. The
# wheel carries them too; it only lacks the unversioned link, because wheels hold no links.
include(CMakePackageConfigHelpers)
set(folder ${WARPLOOM_LIBRARY_FOLDER}/cmake/warploom)

if(SKBUILD)
  install(TARGETS warploom EXPORT warploom LIBRARY DESTINATION ${WARPLOOM_LIBRARY_FOLDER}
                                                   COMPONENT runtime NAMELINK_SKIP)
else()
  install(TARGETS warploom EXPORT warploom LIBRARY DESTINATION ${WARPLOOM_LIBRARY_FOLDER}
                                                   COMPONENT runtime)
endif()
install(DIRECTORY include/warploom DESTINATION include COMPONENT runtime FILES_MATCHING
        PATTERN "*.h")
install(EXPORT warploom NAMESPACE warploom:: FILE warploomConfig.cmake DESTINATION ${folder}
        COMPONENT runtime)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/warploomConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/warploomConfigVersion.cmake DESTINATION ${folder}
        COMPONENT runtime)

# What the GPU libraries beside the core were built with, for `warploom doctor`.
set(cuda_compiler "")
if(WARPLOOM_WITH_CUDA)
  list(JOIN WARPLOOM_CUDA_ARCHITECTURES " " architectures)
  set(cuda_compiler "nvcc ${CMAKE_CUDA_COMPILER_VERSION} for ${architectures}")
endif()
set(hip_compiler "")
if(WARPLOOM_WITH_HIP)
  list(JOIN WARPLOOM_HIP_ARCHITECTURES " " architectures)
  set(hip_compiler "hipcc for ${architectures}")
endif()
set_property(
  SOURCE csrc/base/describe.cc
  APPEND
  PROPERTY COMPILE_DEFINITIONS WARPLOOM_CUDA_COMPILER="${cuda_compiler}"
           WARPLOOM_HIP_COMPILER="${hip_compiler}")
